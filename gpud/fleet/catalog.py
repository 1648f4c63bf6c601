"""Creates, changes and deletes endpoints, and answers what the fleet is doing."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from gpud import __version__
from gpud.core.endpoint import Endpoint, EndpointSpec, EndpointType, PinnedImage
from gpud.core.forecast import forecast
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.placement import impossible, overbooked
from gpud.core.records import EndpointDeleted, EndpointSaved
from gpud.core.revision import revision_of
from gpud.core.standby import StandbyMode, StandbySeen
from gpud.core.starts import StartRecord
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState
from gpud.errors import Conflict, DependencyDown, InvalidSpec, NotFound
from gpud.fleet.revisions import find_revision
from gpud.fleet.state import StartLimits
from gpud.fleet.views import view_endpoint, view_gpus, warnings_of
from gpud.ports.control import DaemonHealth, EndpointView, GpuView

if TYPE_CHECKING:
    from gpud.core.forecast import Forecast
    from gpud.core.revision import RevisionRecord
    from gpud.fleet.gpu_keeper import GpuKeeper
    from gpud.fleet.hands import Hands
    from gpud.fleet.image_keeper import ImageKeeper
    from gpud.fleet.journal import Journal
    from gpud.fleet.prewarmer import Prewarmer
    from gpud.fleet.windows import WindowWatch
    from gpud.ports.images import ImageCollection, LocalImage, PullProgress
    from gpud.ports.store import FleetStore


class Catalog:
    """The fleet's one door (`ports.control.FleetControl`)."""

    def __init__(
        self,
        *,
        hands: Hands,
        journal: Journal,
        prewarmer: Prewarmer,
        image_keeper: ImageKeeper,
        gpu_keeper: GpuKeeper,
        windows: WindowWatch,
        store: FleetStore,
    ) -> None:
        self._hands = hands
        self._journal = journal
        self._prewarmer = prewarmer
        self._image_keeper = image_keeper
        self._gpu_keeper = gpu_keeper
        self._windows = windows
        self._store = store
        self._began_s = hands.clock.now_s()

    # -- endpoints -----------------------------------------------------------------------------

    async def deploy(self, spec: EndpointSpec) -> tuple[Endpoint, bool]:
        """Create an endpoint or change it; True when it is new."""
        self._refuse_impossible(spec)
        image = await self._pin(spec)
        spec = await self._with_port(spec, image)

        def apply() -> tuple[Endpoint, bool]:
            state = self._hands.state
            self._refuse_taken_aliases(spec)
            self._refuse_overbooking(spec)
            before = state.endpoints.get(spec.name)
            self._refuse_other_type(spec, before)
            endpoint = self._endpoint_of(spec, image)
            state.endpoints[spec.name] = endpoint
            self._journal.add(EndpointSaved(endpoint=endpoint))
            facts = {"image": image.reference, "pin": image.pin, "revision": endpoint.revision}
            kind = "endpoint.changed" if before else "endpoint.created"
            self._hands.reconciler.record(kind, facts, endpoint=spec.name)
            self._hands.reconciler.rollouts.accept(endpoint, before)
            return endpoint, before is None

        endpoint, is_new = await self._hands.reconciler.change(apply)
        self._prewarmer.start(endpoint.image, endpoint.spec.registry)
        return endpoint, is_new

    async def forecast(self, spec: EndpointSpec) -> Forecast:
        """Say what deploying a spec would do; writes and pulls nothing, and refuses what a deploy would."""
        hands, state = self._hands, self._hands.state
        self._refuse_impossible(spec)
        image = await self._pin(spec)
        is_here = await hands.images.present(image)
        # Without its image a port may be known only after a pull, which a forecast does not make.
        if is_here or image.exposed_ports:
            spec = await self._with_port(spec, image)
        self._refuse_taken_aliases(spec)
        self._refuse_other_type(spec, state.endpoints.get(spec.name))
        self._refuse_overbooking(spec)
        in_flight = {worker_id: hands.traffic.worker_in_flight(worker_id) for worker_id in state.workers}
        world = state.world(
            now_s=hands.clock.now_s(),
            in_flight=in_flight,
            verify_gpus=True,
            no_shrink_until_s=0.0,
            starts=StartLimits(),
            standing=StandbySeen(),
        )
        memory = state.memory.get(spec.name)
        return forecast(
            world,
            self._endpoint_of(spec, image),
            state.decisions,
            image_present=is_here,
            cold_start_measured=bool(memory and memory.cold_starts),
        )

    def _endpoint_of(self, spec: EndpointSpec, image: PinnedImage) -> Endpoint:
        """The endpoint as it would be if it were deployed now."""
        before, now_ms = self._hands.state.endpoints.get(spec.name), self._hands.clock.at_ms()
        return Endpoint(
            spec=spec,
            image=image,
            revision=revision_of(spec, image),
            created_at_ms=before.created_at_ms if before else now_ms,
            updated_at_ms=now_ms,
        )

    def _refuse_impossible(self, spec: EndpointSpec) -> None:
        # No rule of the spec itself: `standby` applies to earlier revisions, whose GPUs may be shared.
        if spec.gpus.memory_mib and spec.standby.mode is not StandbyMode.NONE:
            why = "must be 'none' with gpus.memory_mib: only workers of whole GPUs stand by"
            raise InvalidSpec(f"standby.mode {why}.", fields={"standby.mode": why})
        if spec.gpus.memory_mib and spec.sleep.on:
            why = "must be 'none' with gpus.memory_mib: only workers of whole GPUs sleep"
            raise InvalidSpec(f"sleep.preset {why}.", fields={"sleep.preset": why})
        if spec.type is EndpointType.QUEUE and (spec.sleep.on or spec.pause.after_idle_s):
            why = "must be off for endpoints of type 'queue': their workers ask for jobs and cannot be woken"
            raise InvalidSpec(f"pause and sleep {why}.", fields={"pause": why})
        gpus, headroom_mib = tuple(self._hands.state.gpus.values()), self._hands.settings.headroom_mib
        fault = impossible(spec.gpus, gpus, headroom_mib=headroom_mib)
        if fault:
            raise InvalidSpec(f"Endpoint {spec.name} can never start here: {fault}.", fields={"gpus": fault})
        self._windows.refuse_faults(spec)

    def _refuse_overbooking(self, spec: EndpointSpec) -> None:
        state = self._hands.state
        before = state.endpoints.get(spec.name)
        if before and before.spec.scale.guaranteed >= spec.scale.guaranteed and before.spec.gpus == spec.gpus:
            return  # it promises no more than it did
        others = [endpoint.spec for name, endpoint in state.endpoints.items() if name != spec.name]
        fault = overbooked(
            [*others, spec], tuple(state.gpus.values()), headroom_mib=self._hands.settings.headroom_mib
        )
        if fault:
            raise Conflict(
                f"Endpoint {spec.name} cannot have its workers for certain: {fault}. "
                "Lower scale.min_workers (or max_workers of a fixed policy) of one of them."
            )

    async def delete_endpoint(self, name: EndpointName) -> None:
        """Drain and forget an endpoint."""

        def apply() -> None:
            self.endpoint(name)
            del self._hands.state.endpoints[name]
            self._hands.state.memory.pop(name, None)
            self._hands.reconciler.rollouts.forget(name)
            self._journal.add(EndpointDeleted(name=name))
            self._hands.reconciler.record("endpoint.deleted", {}, endpoint=name)

        await self._hands.reconciler.change(apply)

    def endpoints(self) -> tuple[EndpointView, ...]:
        """Every endpoint, by name."""
        return tuple(self._view(endpoint) for _, endpoint in sorted(self._hands.state.endpoints.items()))

    def endpoint(self, name: str) -> EndpointView:
        """One endpoint."""
        endpoint = self._hands.state.endpoints.get(EndpointName(name))
        if endpoint is None:
            raise self._unknown("endpoint", name, list(self._hands.state.endpoints))
        return self._view(endpoint)

    async def revisions(self, name: str) -> tuple[RevisionRecord, ...]:
        """Every revision an endpoint ever had, newest first."""
        self.endpoint(name)
        return tuple(reversed(await self._store.revisions(name)))

    async def rollback(self, name: EndpointName, wanted: str) -> Endpoint:
        """Go back: end the rollout under way, or roll out an earlier revision."""
        record = find_revision(await self.revisions(name), name, wanted) if wanted else None

        def apply() -> Endpoint:
            self.endpoint(name)
            return self._hands.reconciler.rollouts.go_back(self._hands.state.endpoints[name], record)

        endpoint = await self._hands.reconciler.change(apply)
        self._prewarmer.start(endpoint.image, endpoint.spec.registry)
        return endpoint

    async def retry(self, name: EndpointName) -> None:
        """Forget an endpoint's start failures, so that it is tried at once."""

        def apply() -> None:
            self.endpoint(name)
            self._hands.state.recall(name).starts = StartRecord()

        await self._hands.reconciler.change(apply)

    # -- workers and GPUs ----------------------------------------------------------------------

    def live_workers(self) -> tuple[Worker, ...]:
        """Every live worker, oldest first."""
        live = (one for one in self._hands.state.workers.values() if one.state is not WorkerState.GONE)
        return tuple(sorted(live, key=lambda one: (one.created_at_ms, one.id)))

    def worker(self, worker_id: str) -> Worker:
        """One live worker."""
        worker = self._hands.state.workers.get(WorkerId(worker_id))
        if worker is None:
            raise self._unknown("worker", worker_id, list(self._hands.state.workers))
        return worker

    async def stop_worker(self, worker_id: WorkerId, *, force: bool) -> None:
        """Drain a worker, or kill it at once when forced."""
        worker = self.worker(worker_id)
        cause = Cause.KILLED if force else Cause.OPERATOR
        self._hands.reconciler.post(WorkerEvent(worker_id=worker.id, cause=cause, force=force))
        self._hands.reconciler.post(WorkerEvent(worker_id=worker.id, cause=Cause.UNWANTED))
        await self._hands.reconciler.change(lambda: None)

    async def gpus(self) -> tuple[GpuView, ...]:
        """Every GPU with its holder."""
        state = self._hands.state
        try:
            uses = await self._hands.gpus.usage(tuple(state.gpus))
        except DependencyDown:
            uses = ()
        return view_gpus(state, {use.uuid: use for use in uses})

    async def set_cordon(self, uuid: GpuUuid, *, cordoned: bool) -> None:
        """Take a GPU out of use, or bring it back whatever its health was."""
        health = GpuHealth.CORDONED if cordoned else GpuHealth.HEALTHY
        reason = "Cordoned by the operator" if cordoned else ""
        await self._hands.reconciler.change(lambda: self._gpu_keeper.apply(uuid, health, reason))

    # -- images --------------------------------------------------------------------------------

    async def images(self) -> tuple[LocalImage, ...]:
        """Images on the box."""
        return await self._image_keeper.listed()

    async def prewarm(self, reference: str, registry: str) -> str:
        """Resolve and pull an image in the background; returns its pin at once."""
        credential = await self._prewarmer.credential(registry)
        image = await self._hands.images.resolve(reference, credential)
        self._prewarmer.start(image, registry)
        return image.pin

    async def remove_image(self, pin: str) -> None:
        """Remove an image that no endpoint uses."""
        await self._image_keeper.remove(pin)

    async def collect_images(self, *, dry_run: bool, everything: bool) -> ImageCollection:
        """Remove images that nobody needs; see the port."""
        return await self._image_keeper.collect(dry_run=dry_run, everything=everything)

    def pulls(self) -> dict[str, PullProgress]:
        """Running pulls by pin."""
        return dict(self._prewarmer.progress)

    # -- the daemon ----------------------------------------------------------------------------

    def health(self) -> DaemonHealth:
        """How the daemon itself is."""
        state = self._hands.state
        full = self._journal.full_since_s is not None
        parts = {
            "store": "The disk of the data directory is full. Free some space; gpud goes on by itself."
            if full
            else "",
            "engine": "" if state.engine_up else state.engine_error,
            "gpus": self._gpu_keeper.fault,
        }
        return DaemonHealth(
            ready=not parts["store"] and not parts["engine"],
            version=__version__,
            gpu_source=self._hands.gpus.source,
            uptime_s=self._hands.clock.now_s() - self._began_s,
            parts=parts,
            engine=state.engine,
            engine_warnings=warnings_of(state.engine) if state.engine else (),
        )

    # -- inside --------------------------------------------------------------------------------

    def _view(self, endpoint: Endpoint) -> EndpointView:
        state = self._hands.state
        load = state.loads.get(endpoint.name)
        return view_endpoint(
            state,
            endpoint,
            pulls=self._prewarmer.progress,
            in_flight=sum(
                self._hands.traffic.worker_in_flight(w.id)
                for w in state.workers.values()
                if w.endpoint == endpoint.name
            ),
            waiting=load.waiting if load else 0,
            now_s=self._hands.clock.now_s(),
            at_ms=self._hands.clock.at_ms(),
        )

    async def _pin(self, spec: EndpointSpec) -> PinnedImage:
        credential = await self._prewarmer.credential(spec.registry)
        return await self._hands.images.resolve(spec.image, credential)

    async def _with_port(self, spec: EndpointSpec, image: PinnedImage) -> EndpointSpec:
        if spec.port or spec.type is EndpointType.QUEUE:
            return spec
        ports = image.exposed_ports
        if not ports:
            await self._prewarmer.ensure(image, spec.registry)
            ports = await self._hands.images.exposed_ports(image)
        if len(ports) == 1:
            return replace(spec, port=ports[0])
        found = f"exposes {', '.join(map(str, ports))}" if ports else "exposes no port"
        raise InvalidSpec(
            f"Image {spec.image} {found}: say where it listens with --port.",
            fields={"port": f"the image {found}; say which one it listens on"},
        )

    @staticmethod
    def _refuse_other_type(spec: EndpointSpec, before: Endpoint | None) -> None:
        if before is not None and before.spec.type is not spec.type:
            raise Conflict(
                f"{spec.name} is of the type {before.spec.type}, which an endpoint keeps for life. Deploy "
                f"under another name, or delete it first with `gpud endpoint rm {spec.name}`."
            )

    def _refuse_taken_aliases(self, spec: EndpointSpec) -> None:
        for name, endpoint in self._hands.state.endpoints.items():
            if name == spec.name:
                continue
            taken = sorted({*endpoint.spec.aliases, name} & {*spec.aliases, spec.name})
            if taken:
                raise Conflict(f"{', '.join(taken)} already names endpoint {name}. Choose another alias.")

    @staticmethod
    def _unknown(kind: str, name: str, known: list[EndpointName] | list[WorkerId]) -> NotFound:
        near = get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" `gpud {kind} ls` lists those there are."
        return NotFound(f"There is no {kind} {name!r}.{hint}")
