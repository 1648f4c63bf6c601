"""What each problem means and what to do about it: the words of the pages at `/problems/<slug>`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.errors import GpudError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The page of one problem.

    Args:
        means: What happened, and what gpud did about it.
        do: What the reader can do.
    """

    means: str
    do: str


ADVICE: dict[str, Advice] = {
    "internal-error": Advice(
        means="gpud met something it does not know while it answered. What it was stands in gpud's log, "
        "under the request id that the problem document has as `instance`.",
        do="Look whether the change took place before you repeat it, or repeat it with the same "
        "Idempotency-Key. Report the log entry as a bug.",
    ),
    "invalid-request": Advice(
        means="The request cannot be read as what it claims to be. Nothing was changed. `fields` names each "
        "fault: a field path or parameter, and what would be right.",
        do="Mend what `fields` names and send the request again. /docs shows every field with its bounds.",
    ),
    "invalid-spec": Advice(
        means="The endpoint spec can be read and cannot be used: a field is unknown, a value is out of "
        "bounds, or this box can never run it, for example because it asks for more GPUs than there "
        "are. Nothing was changed.",
        do="Mend what `fields` names and deploy again. An unknown field names the nearest known one.",
    ),
    "method-not-allowed": Advice(
        means="There is something at this path, and not for this method. The header Allow and the member "
        "`allowed` list the methods there are.",
        do="Use one of those methods. /docs lists every path with its methods.",
    ),
    "unsupported-media-type": Advice(
        means="The request's body does not say that it is JSON. It was not read.",
        do="Send JSON with the header Content-Type: application/json.",
    ),
    "unauthenticated": Advice(
        means="No API key came with the request, or one that is unknown, expired or disabled. A key is "
        "always required over TCP, on the loopback address too. Only root and the daemon's own user "
        "need none, through the Unix socket.",
        do="Send Authorization: Bearer gpud_…. An administrator makes a key with `gpud key create` on "
        "the box itself.",
    ),
    "path-denied": Advice(
        means="The endpoint's spec keeps this path of its workers from callers (`requests.denied_paths`, or "
        "the control paths of its sleep hooks), however it is written. The request went to no worker.",
        do="Call another path. What such a path does to a worker is gpud's to ask for.",
    ),
    "forbidden": Advice(
        means="The key is valid and lacks the scope this needs. Scopes allow what they name: `read`, "
        "`write`, `metrics`, `exec`, `invoke:<endpoint>` or `invoke:*`; `admin` allows all.",
        do="Use a key that has the scope named in `detail`, or make one with `gpud key create --scope …`.",
    ),
    "not-found": Advice(
        means="Nothing of that name exists, or it exists no longer. For endpoints `detail` lists near names.",
        do="Check the spelling, and list what there is: `gpud endpoint ls`, `gpud worker ls --all`.",
    ),
    "image-not-found": Advice(
        means="Neither the Docker Engine nor the registry has this image. A registry may answer so for a "
        "private image, too, when no credential was sent.",
        do="Check name and tag. For a private image store a credential with `gpud registry login` and name "
        "it in the spec as `registry`.",
    ),
    "conflict": Advice(
        means="The change contradicts what is there: the name is taken, something still uses what should "
        "go, or the first request with the same Idempotency-Key is still being answered.",
        do="Read `detail` for what is in the way. For a request still being answered, wait and repeat.",
    ),
    "command-not-started": Advice(
        means="A command for a worker never ran: its image has no such program, or none that may be run. "
        "`detail` has the engine's words. The worker itself goes on.",
        do="Name a program that the image has, by its whole path if it is not in the PATH. Images without a "
        "shell, such as distroless ones, have only their own programs.",
    ),
    "exec-ended": Advice(
        means="A session inside a worker was ended though its command had not ended: the worker was scaled "
        "down, paused, replaced or has failed, or nothing was typed and written for "
        "`exec.idle_timeout_s`. The command's processes were ended with it.",
        do="Open another session, in a worker that is ready. A session does not keep a worker: raise "
        "`scale.min_workers` or `scale.idle_timeout_s` of its endpoint for as long as you look.",
    ),
    "idempotency-mismatch": Advice(
        means="The Idempotency-Key was used before with another method, path or body. Nothing was changed.",
        do="Take a fresh key for each different request; keep a key only to repeat the very same one.",
    ),
    "body-too-large": Advice(
        means="The request's body is larger than what is read: 1 MiB on the API itself, and "
        "`server.body_bytes_max` for requests to endpoints.",
        do="Send less, or have the administrator raise `server.body_bytes_max`; large inputs are better "
        "fetched by the worker from a store.",
    ),
    "head-too-large": Advice(
        means="The request line or the header fields are larger than the gateway reads.",
        do="Send shorter or fewer header fields; put long values into the body.",
    ),
    "request-stalled": Advice(
        means="The client began a request and then sent nothing for too long, so it was given up.",
        do="Send the request again. If it happens often, look at the client's network or its upload code.",
    ),
    "unknown-host": Advice(
        means="A request without a key was addressed to a name that is not gpud's. A page of others can "
        "have a name of theirs lead to this machine and would then count as the dashboard's own page, so "
        "only addresses, `localhost`, `server.domain` and the names in `server.hosts` are answered. With TLS "
        "of gpud's own (`server.tls_cert`) every name is, as the browser checks it against the certificate.",
        do="Open the dashboard by its address, or add the name to `server.hosts` in gpud.toml and restart "
        "gpud. Clients that send a key may use any name.",
    ),
    "cross-origin": Advice(
        means="A browser asked for a WebSocket on behalf of a page that is not this daemon's: its Origin "
        "header is another than the Host it asked.",
        do="Open the terminal from gpud's own dashboard. Behind a front-end that changes the Host header, "
        "add the name that people use to `server.hosts`.",
    ),
    "too-many-attempts": Advice(
        means="Many requests with keys that are not valid came from this address within a minute. Requests "
        "with a valid key are not held up.",
        do="Mend the key of the client that keeps failing. The header Retry-After says when the count "
        "starts anew.",
    ),
    "queue-full": Advice(
        means="The endpoint holds as many waiting requests as its `limits.max_queue` allows. This one was "
        "not taken.",
        do="Repeat after the time in Retry-After. If it happens often, raise `scale.max_workers` or "
        "`limits.max_queue`.",
    ),
    "budget-spent": Advice(
        means="The endpoint, or the API key, has used what `[[budgets.limits]]` in gpud.toml allows in the "
        "day or month, so no worker is started for it.",
        do="Wait as long as `Retry-After` says, until the budget begins anew, or have it raised; "
        "`gpud usage` says what was used.",
    ),
    "start-failed": Advice(
        means="The endpoint's workers failed to start several times in a row, so requests are refused at "
        "once instead of being held. `detail` has the last error. gpud keeps trying, ever more "
        "slowly.",
        do="Mend the cause and deploy again, or run `gpud endpoint retry` when the cause lay outside. "
        "`gpud worker ls` and the events show each attempt.",
    ),
    "unavailable": Advice(
        means="gpud cannot do this now and expects to later: it is starting, stopping, or busy with as much "
        "as it allows.",
        do="Repeat after the time in Retry-After. /readyz tells how the daemon is.",
    ),
    "asleep": Advice(
        means="The endpoint has no worker ready, and the request is of a kind that starts none: a HEAD or "
        "OPTIONS, or a GET of a path that monitors ask for (`requests.quiet_methods`, "
        "`requests.quiet_paths`, the health path). Nothing was started.",
        do="A monitor can take it for an endpoint that sleeps. To start a worker, call any other path, or "
        "send X-Gpud-Wake: true with this one.",
    ),
    "dependency-down": Advice(
        means="The Docker Engine, the GPU driver or the disk does not answer. Workers that run keep "
        "serving; nothing was lost.",
        do="/readyz names the part and what is wrong with it. For the engine see `systemctl status "
        "docker`, for GPUs `nvidia-smi`.",
    ),
    "image-pull-failed": Advice(
        means="The registry or the network failed while the image was resolved or pulled, or the disk is "
        "full, or the pull made no progress for `docker.pull_stall_timeout_s`.",
        do="`detail` has the registry's own words. Check network and disk on the box, then deploy again.",
    ),
    "registry-denied": Advice(
        means="The registry refused the credential, or asks for one and the spec names none.",
        do="Store a valid credential with `gpud registry login`, name it in the spec as `registry`, and "
        "deploy again.",
    ),
    "launch-failed": Advice(
        means="The Docker Engine could not create or start the worker's container. `detail` has its words.",
        do="Check the image's entrypoint, the spec's command, volumes and GPUs, then deploy again.",
    ),
    "worker-unreachable": Advice(
        means="The worker took no connection, or broke it before it answered, and so did another one if "
        "there was one. The request may not have reached it.",
        do="Repeat the request. If it happens often, look at the worker's log: it may crash under this "
        "request.",
    ),
    "cold-start-timeout": Advice(
        means="The request was held for a worker, and none became ready in time. `reason` tells what was "
        "being waited for, such as `waiting_for_gpu`.",
        do="Repeat later, or raise `limits.queue_timeout_s`. `gpud endpoint get` says what is missing.",
    ),
    "no-capacity": Advice(
        means="Workers are there, and none had a free slot while the request was held.",
        do="Raise `scale.max_workers` or `scale.concurrency`, or send less at once.",
    ),
    "request-timeout": Advice(
        means="The worker did not finish its answer within the endpoint's `limits.request_timeout_s`, and "
        "the request was cut.",
        do="Raise that limit for slow work, or look at the worker's log for what keeps it.",
    ),
    "storage-full": Advice(
        means="The disk that holds the daemon's data has no room. Nothing was written; workers keep serving.",
        do="Free space below `paths.data_dir`; unused images are often the most: `gpud image ls`.",
    ),
    "bad-settings": Advice(
        means="gpud.toml says something gpud does not know or cannot use. The daemon does not start with it.",
        do="The message names file and field. docs/reference/settings.md lists every setting with its "
        "bounds.",
    ),
    "store-unusable": Advice(
        means="The data directory is held by another daemon, is damaged, or was written by a newer version.",
        do="The message says which. Stop the other daemon, restore a backup, or run the newer version.",
    ),
    "invariant-broken": Advice(
        means="A promise gpud makes to itself does not hold: a bug. The daemon ends and is started again; "
        "workers keep serving and are taken over.",
        do="Report the log entry. `gpud audit` checks the books.",
    ),
}


def problem_kinds() -> Iterator[type[GpudError]]:
    """Every class of the error tree, each slug once, by status and slug."""
    found: dict[str, type[GpudError]] = {}
    left: list[type[GpudError]] = [GpudError]
    while left:
        kind = left.pop()
        found.setdefault(kind.slug, kind)
        left.extend(kind.__subclasses__())
    yield from sorted(found.values(), key=lambda kind: (kind.status, kind.slug))
