"""Every event gpud records for people, and what it means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED: dict[str, str] = {
    "budget.threshold_passed": "An endpoint or key used a part of its budget; `budget`, `percent`, `until`.",
    "daemon.found_reboot": "The machine was restarted since the last heartbeat; its workers ended with it.",
    "daemon.plan_failed": "gpud's own decisions fail: workers serve on, none starts or stops; `error`.",
    "endpoint.created": "An endpoint was deployed for the first time; image, pin, revision.",
    "endpoint.changed": "An endpoint was deployed again; a new revision replaces its workers.",
    "endpoint.circuit_opened": "Its workers fail to start and callers are refused; `error`, `failures`.",
    "endpoint.deleted": "An endpoint was deleted; its workers drain.",
    "endpoint.scaled": "The scale policy wants another number of workers; `from`, `to`, `reason`.",
    "engine.examined": "What kind of engine it is, at the start and when that changes; `warnings`.",
    "engine.lost": "The Docker Engine stopped answering; `error` says how.",
    "engine.returned": "The Docker Engine answers again and was compared with the rows.",
    "gpu.appeared": "The driver lists a GPU that was not there before.",
    "gpu.health_changed": "A GPU's health changed; `reason` says why.",
    "image.budget_exceeded": "Needed images take more than the disk budget; `over_bytes`, `taken_bytes`.",
    "image.pull_failed": "A pull was given up; `error` says why.",
    "image.pull_progressed": "A layer of a pull is done; layers and bytes, done and known so far.",
    "image.pull_started": "An image is being pulled.",
    "image.pulled": "An image is on the box; `took_s`.",
    "image.removed": "An image that nobody needs was removed to keep the disk budget; `pin`, `size_bytes`.",
    "image.reads_recorded": "What a first start read from its image was noted; `files`, `bytes`, `why_not`.",
    "image.warmed": "Files were asked of the disk ahead of a start; `files`, `bytes`, or `why_not`.",
    "webhook.disabled": "A webhook gets no more calls; `reason` says why.",
    "rollout.canary_begun": "The image of a new revision is here; its first worker is made and tried.",
    "rollout.canary_ready": "The first worker of a new revision answers; it must stay well for a while.",
    "rollout.completed": "A new revision has taken over and no older worker is left; `took_s`.",
    "rollout.rolled_back": "A new revision was given up and the one before serves; `reason`, `detail`.",
    "rollout.shifted": "A new revision has proved itself; the older workers leave.",
    "rollout.started": "Another revision was deployed and is being rolled out; `from`, `to`.",
    "rollout.superseded": "A rollout ended because yet another revision was deployed.",
    "standby.dropped": "A standby is destroyed; `why` says what made it useless.",
    "standby.failed": "A standby could not be brought on its rung, kept there or woken; `detail` says why.",
    "standby.prepared": "A container is kept for a fast start; `rung` and `took_ms`.",
    "worker.adopted": "A worker was found running at the start of the daemon and goes on; `unsupervised_ms`.",
    "worker.creating": "The GPUs were verified and the container is being created.",
    "worker.discarded": "A sleeping worker is destroyed; it held no GPU. `cause` says why.",
    "worker.dozing": "An idle worker was told to sleep; its GPUs are free once their memory is back.",
    "worker.draining": "A worker takes no new requests; `cause` says why.",
    "worker.failed": "A worker ended though gpud did not ask; `cause`, `detail`, `exit_code`.",
    "worker.gone": "A worker's container is removed and its GPUs are free.",
    "worker.log_kept": "The last output of a failed worker, in `log_tail`.",
    "worker.lost": "The engine did not answer a stop for five minutes; its GPUs stay leased.",
    "worker.paused": "An idle worker's processes are frozen; it keeps its GPUs.",
    "worker.pulling": "A worker waits for its image.",
    "worker.ready": "A worker answers; the milliseconds of each phase of its start, `slower` if unusual, the "
    "rung of the `standby` that it was.",
    "worker.requested": "One more worker is wanted: `why`, `detail` in words, how many waited or ran.",
    "worker.reserved": "A worker has its GPUs.",
    "worker.slept": "A worker sleeps and its GPUs are free.",
    "worker.started": "A worker's container runs; it is probed until it answers.",
    "worker.stopped": "A worker's container ended as asked; its GPUs are being released.",
    "worker.stopping": "A worker's container was told to stop.",
    "worker.stray_removed": "A container of this install that no row explains was removed; its `log_tail`.",
    "worker.step_failed": "A worker could not pause, sleep or come back; `rung`, `detail`.",
    "worker.unready": "A ready worker left the rotation; `detail` says what its probe answered.",
    "worker.waking": "A paused or sleeping worker is brought back.",
    "worker.woken": "A worker that was paused or slept answers again; the milliseconds of each phase.",
}


def event_text(kind: str, facts: Mapping[str, object]) -> str:
    """An event as one line: its kind and its facts, `name=value` each; a text with spaces is in quotes."""
    return " ".join([kind, *(f"{name}={_spelled(fact)}" for name, fact in facts.items())])


def _spelled(fact: object) -> str:
    if isinstance(fact, str):
        plain = fact and not any(char.isspace() or char == '"' for char in fact)
        return str(fact) if plain else json.dumps(str(fact), ensure_ascii=False)
    return json.dumps(fact, ensure_ascii=False, default=str)
