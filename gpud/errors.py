"""Every exception gpud raises on purpose.

::

    GpudError
    ├── InvalidRequest          400   malformed input; `fields` names each fault
    │   ├── BadFraming          400   a message two readers could see differently
    │   │   └── HeadTooLarge    431
    │   ├── InvalidSpec         422   a spec that parses but cannot be
    │   ├── CommandNotStarted   422   a command that the worker's image does not have
    │   ├── MethodNotAllowed    405
    │   └── UnsupportedMediaType 415
    ├── RequestStalled          408   the client began a request and did not go on
    ├── Unauthenticated         401
    ├── Forbidden               403
    │   ├── CrossOrigin         403   a page of others opened a WebSocket
    │   └── PathDenied          403   the endpoint's spec keeps this path from callers
    ├── NotFound                404
    │   └── ImageNotFound       404
    ├── Conflict                409
    │   └── ExecEnded           409   a session in a worker was ended by gpud
    ├── IdempotencyMismatch     422
    ├── BodyTooLarge            413
    ├── UnknownHost             421   addressed to a name that is not gpud's
    ├── TooManyAttempts         429   keys that are not valid, from one address
    ├── QueueFull               429
    ├── StartFailed             503   the endpoint's circuit is open
    ├── Unavailable             503   a dependency is away, or gpud is stopping
    │   ├── Asleep              503   no worker runs, and a monitor's request starts none
    │   └── DependencyDown      503
    ├── ImagePullFailed         502
    │   └── RegistryDenied      502
    ├── LaunchFailed            502
    ├── WorkerUnreachable       502
    ├── ColdStartTimeout        504
    ├── NoCapacity              504
    ├── RequestTimeout          504   the worker took longer than it may
    ├── StorageFull             507
    ├── BadSettings             500   gpud.toml cannot be used
    ├── StoreUnusable           500   the data directory cannot be used
    └── InvariantBroken         500   a bug: the daemon ends and is restarted
"""

from __future__ import annotations

from typing import ClassVar


class GpudError(Exception):
    """Something gpud refuses or cannot do, said so that the reader knows what to do next.

    Args:
        detail: What happened, why, and what to do, in one or two sentences.
        fields: Faults by field path, for input errors.
        retry_after_s: When trying again makes sense, if known.
        extra: Machine-readable facts for the problem document, by name.
    """

    slug: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        fields: dict[str, str] | None = None,
        retry_after_s: float | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields or {}
        self.retry_after_s = retry_after_s
        self.extra = extra or {}


class InvalidRequest(GpudError):
    """The request cannot be read as what it claims to be."""

    slug = "invalid-request"
    status = 400
    title = "The request is not valid"


class BadFraming(InvalidRequest):
    """A message whose end, or meaning, two readers could see differently: never passed on."""


class HeadTooLarge(BadFraming):
    """A request line or header fields beyond the gateway's limits."""

    slug = "head-too-large"
    status = 431
    title = "The request's head is too large"


class RequestStalled(GpudError):
    """The client began a request and did not go on."""

    slug = "request-stalled"
    status = 408
    title = "The request did not arrive in time"


class InvalidSpec(InvalidRequest):
    """A spec that can be read but must not be: `fields` names each fault."""

    slug = "invalid-spec"
    status = 422
    title = "The spec is not valid"


class CommandNotStarted(InvalidRequest):
    """A command for a worker that its container cannot run."""

    slug = "command-not-started"
    status = 422
    title = "The command could not be started in the worker"


class MethodNotAllowed(InvalidRequest):
    """The path exists, and not for this method."""

    slug = "method-not-allowed"
    status = 405
    title = "The method is not allowed here"


class UnsupportedMediaType(InvalidRequest):
    """The request's body is of a kind that is not read here."""

    slug = "unsupported-media-type"
    status = 415
    title = "The body is of a type that is not read here"


class Unauthenticated(GpudError):
    """No key, or one that is unknown, expired or disabled."""

    slug = "unauthenticated"
    status = 401
    title = "A valid API key is required"


class Forbidden(GpudError):
    """The key is known and lacks the scope."""

    slug = "forbidden"
    status = 403
    title = "The key's scopes do not allow this"


class PathDenied(Forbidden):
    """The endpoint's spec keeps this path from its callers, whatever their key."""

    slug = "path-denied"
    title = "The endpoint keeps this path from callers"


class CrossOrigin(Forbidden):
    """A browser opened a WebSocket for a page that is not gpud's."""

    slug = "cross-origin"
    title = "Pages of others may not do this"


class NotFound(GpudError):
    """Nothing of that name exists."""

    slug = "not-found"
    status = 404
    title = "Not found"


class ImageNotFound(NotFound):
    """Neither the engine nor the registry has the image."""

    slug = "image-not-found"
    title = "The image does not exist"


class Conflict(GpudError):
    """The change contradicts what is there."""

    slug = "conflict"
    status = 409
    title = "The change conflicts with the present state"


class ExecEnded(Conflict):
    """A session inside a worker was ended, and not by its command."""

    slug = "exec-ended"
    title = "The session in the worker was ended"


class IdempotencyMismatch(GpudError):
    """An Idempotency-Key was used again with another request."""

    slug = "idempotency-mismatch"
    status = 422
    title = "The Idempotency-Key belongs to another request"


class BodyTooLarge(GpudError):
    """The request's body exceeds what the daemon forwards."""

    slug = "body-too-large"
    status = 413
    title = "The request body is too large"


class UnknownHost(GpudError):
    """A request without a key, addressed to a name that gpud does not answer to."""

    slug = "unknown-host"
    status = 421
    title = "This name is not one that gpud answers to"


class TooManyAttempts(GpudError):
    """An address sent too many requests with keys that are not valid."""

    slug = "too-many-attempts"
    status = 429
    title = "Too many failed attempts to authenticate"


class QueueFull(GpudError):
    """The endpoint holds as many waiting requests as it may."""

    slug = "queue-full"
    status = 429
    title = "Too many requests are waiting"


class BudgetSpent(GpudError):
    """The endpoint, or the key, has used its budget: no worker is started for it until that begins anew."""

    slug = "budget-spent"
    status = 429
    title = "The budget is spent"


class StartFailed(GpudError):
    """The endpoint's workers fail to start; the last error is told."""

    slug = "start-failed"
    status = 503
    title = "The endpoint's workers fail to start"


class Unavailable(GpudError):
    """gpud cannot do this now, and expects to later."""

    slug = "unavailable"
    status = 503
    title = "Not available now"


class Asleep(Unavailable):
    """No worker runs, and this request is of a kind that starts none."""

    slug = "asleep"
    title = "No worker is ready, and this request starts none"


class DependencyDown(Unavailable):
    """The Docker Engine, NVML or the disk does not answer."""

    slug = "dependency-down"
    title = "A part gpud depends on does not answer"


class ImagePullFailed(GpudError):
    """The registry or the network failed during a pull."""

    slug = "image-pull-failed"
    status = 502
    title = "The image could not be pulled"


class RegistryDenied(ImagePullFailed):
    """The registry refused the credentials, or asks for some."""

    slug = "registry-denied"
    title = "The registry refused access"


class LaunchFailed(GpudError):
    """The engine could not create or start a container.

    Args:
        permanent: True when trying the same again cannot help.
    """

    slug = "launch-failed"
    status = 502
    title = "The container could not be started"

    def __init__(self, detail: str, *, permanent: bool = False) -> None:
        super().__init__(detail)
        self.permanent = permanent


class WorkerUnreachable(GpudError):
    """The worker took no connection or broke it before answering."""

    slug = "worker-unreachable"
    status = 502
    title = "The worker could not be reached"


class ColdStartTimeout(GpudError):
    """No worker became ready while the request was held."""

    slug = "cold-start-timeout"
    status = 504
    title = "No worker became ready in time"


class NoCapacity(GpudError):
    """Workers exist and none had a free slot while the request was held."""

    slug = "no-capacity"
    status = 504
    title = "No worker had room in time"


class RequestTimeout(GpudError):
    """The worker did not finish its answer within the endpoint's request timeout."""

    slug = "request-timeout"
    status = 504
    title = "The worker did not answer in time"


class StorageFull(GpudError):
    """The disk has no room for a durable write."""

    slug = "storage-full"
    status = 507
    title = "The disk is full"


class BadSettings(GpudError):
    """gpud.toml or an environment override cannot be used."""

    slug = "bad-settings"
    title = "The settings cannot be used"


class StoreUnusable(GpudError):
    """The data directory is held, damaged, or of another version."""

    slug = "store-unusable"
    title = "The store cannot be used"


class InvariantBroken(GpudError):
    """A promise gpud makes to itself does not hold: a bug."""

    slug = "invariant-broken"
    title = "An internal invariant does not hold"
