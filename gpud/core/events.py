"""Every event gpud records for people, and what it means."""

from __future__ import annotations

RECORDED: dict[str, str] = {
    "daemon.found_reboot": "The machine was restarted since the last heartbeat; its workers ended with it.",
    "endpoint.created": "An endpoint was deployed for the first time; image, pin, revision.",
    "endpoint.changed": "An endpoint was deployed again; a new revision replaces its workers.",
    "endpoint.deleted": "An endpoint was deleted; its workers drain.",
    "engine.lost": "The Docker Engine stopped answering; `error` says how.",
    "engine.returned": "The Docker Engine answers again and was compared with the rows.",
    "gpu.appeared": "The driver lists a GPU that was not there before.",
    "gpu.health_changed": "A GPU's health changed; `reason` says why.",
    "image.pull_failed": "A pull was given up; `error` says why.",
    "image.pull_progressed": "A layer of a pull is done; layers and bytes, done and known so far.",
    "image.pull_started": "An image is being pulled.",
    "image.pulled": "An image is on the box; `took_s`.",
    "worker.adopted": "A worker was found running at the start of the daemon and goes on; `unsupervised_ms`.",
    "worker.creating": "The GPUs were verified and the container is being created.",
    "worker.draining": "A worker takes no new requests; `cause` says why.",
    "worker.failed": "A worker ended though gpud did not ask; `cause`, `detail`, `exit_code`.",
    "worker.gone": "A worker's container is removed and its GPUs are free.",
    "worker.log_kept": "The last output of a failed worker, in `log_tail`.",
    "worker.lost": "The engine did not answer a stop for five minutes; its GPUs stay leased.",
    "worker.pulling": "A worker waits for its image.",
    "worker.ready": "A worker answers; the milliseconds of each phase of its start.",
    "worker.requested": "The scale policy wants one more worker.",
    "worker.reserved": "A worker has its GPUs.",
    "worker.started": "A worker's container runs; it is probed until it answers.",
    "worker.stopped": "A worker's container ended as asked; its GPUs are being released.",
    "worker.stopping": "A worker's container was told to stop.",
    "worker.stray_removed": "A container of this install that no row explains was removed; its `log_tail`.",
    "worker.unready": "A ready worker left the rotation; `detail` says what its probe answered.",
}
