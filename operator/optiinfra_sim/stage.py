"""The stage: which pod of the cluster is played by which service, by address and by uid, and what time it is.

Virtual second 0 is ``epoch`` in Unix time. The stage is told the time and what pods there are; it reads no clock and
opens no socket, so that tests can play hours in a moment. A pod's engine loads its model from the pod's start and
serves once that is done and the pod is Ready; it ends when the pod terminates or vanishes. Losing readiness later
does not stop an engine, as it does not stop a real one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optiinfra_sim.cluster import PodView
from optiinfra_sim.door import Door
from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.fleet import LATE_AFTER_SECONDS
from optiinfra_sim.plays import EngineLoad, FleetPlay, Play, RecordedPlay, ServiceState, TracePlan
from optiinfra_sim.replay import read_recording
from optiinfra_sim.scenario import IdleService, RecordedService, Scenario, SimulatedService, locate


@dataclass(slots=True, eq=False)
class _Actor:
    """A pod of ours."""

    uid: str
    address: str
    service: str
    serves: bool = False


class Stage:
    """All services of a scenario and the pods that they are played on."""

    def __init__(self, scenario: Scenario, *, folder: Path, epoch: float) -> None:
        self.epoch = epoch
        self.now = 0.0
        self._services = {service.name: service for service in scenario.services}
        self._plays = {service.name: _play(service, folder=folder, epoch=epoch) for service in scenario.services}
        self._actors: dict[str, _Actor] = {}
        self._by_address: dict[str, _Actor] = {}

    def follow(self, pods: Sequence[PodView]) -> None:
        """Take notice of the pods that there are now."""
        present: dict[str, _Actor] = {}
        for pod in pods:
            name = self._service_of(pod)
            if name is None or pod.terminating:
                continue
            actor = self._actors.get(pod.uid)
            if actor is None:
                actor = _Actor(uid=pod.uid, address=pod.address, service=name)
                self._plays[name].join(pod.uid, started=pod.started)
            if not actor.serves and pod.ready_since is not None:
                actor.serves = True
                loaded = pod.started + self._services[name].startup_seconds
                self._plays[name].serve(pod.uid, at=max(loaded, pod.ready_since) - self.epoch)
            present[pod.uid] = actor
        for uid, actor in self._actors.items():
            if uid not in present:
                self._plays[actor.service].leave(uid)
        self._actors = present
        self._by_address = {actor.address: actor for actor in present.values()}

    def advance(self, *, to: float) -> None:
        """Live through virtual time up to ``to``."""
        for play in self._plays.values():
            play.advance(to=to)
        self.now = to

    def begin(self, name: str) -> None:
        """Let the trace of a service begin now."""
        play = self._plays.get(name)
        if not isinstance(play, FleetPlay):
            raise ScenarioError(f"service {name!r} has no trace to begin")
        play.begin()

    def knows(self, address: str) -> bool:
        """Whether a pod of ours has that address."""
        return address in self._by_address

    def page(self, address: str) -> bytes | None:
        """The metric page at an address; None while nothing serves there."""
        actor = self._by_address.get(address)
        return None if actor is None else self._plays[actor.service].page(actor.uid)

    def door(self, address: str) -> Door | None:
        """The engine at an address for the completions API; None where nothing computes there, as in a recording."""
        actor = self._by_address.get(address)
        play = None if actor is None else self._plays[actor.service]
        return play.door(actor.uid) if actor is not None and isinstance(play, FleetPlay) else None

    def load(self, uid: str) -> EngineLoad | None:
        """How the engine of a pod loads its GPUs; None where no model is loaded."""
        actor = self._actors.get(uid)
        return None if actor is None else self._plays[actor.service].load(uid)

    def states(self) -> list[ServiceState]:
        """Every service as it stands."""
        return [play.state() for play in self._plays.values()]

    def _service_of(self, pod: PodView) -> str | None:
        for name, service in self._services.items():
            if pod.namespace == service.namespace and pod.carries(service.selector):
                return name
        return None


def _play(service: SimulatedService | IdleService | RecordedService, *, folder: Path, epoch: float) -> Play:
    if isinstance(service, RecordedService):
        path = locate(service.recording, folder=folder, kind="recordings", ending=".tar.gz")
        return RecordedPlay(name=service.name, recording=read_recording(path))
    plan: TracePlan | None = None
    late_after = LATE_AFTER_SECONDS
    if isinstance(service, SimulatedService):
        late_after = service.late_after_seconds
        plan = TracePlan(
            arrivals=service.trace.arrivals(folder=folder),
            length=service.trace.played_seconds,
            description=service.trace.describe(),
            waits_for_command=service.begin == "Command",
            initial_replicas=service.initial_replicas,
        )
    return FleetPlay(
        name=service.name, settings=service.engine.settings(), epoch=epoch, late_after=late_after, plan=plan
    )
