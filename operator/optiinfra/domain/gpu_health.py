"""GPUs that are not well: what the driver asks for, Xids that end work, broken memory, GPUs that vanished.

A GPU that is not well is no place for work: nothing is moved or shrunk onto it, and its silence is never idleness.
Xids carry no time, and are counted since the agent's start: one stands from the moment its count was first seen to
have grown. Where the driver says that no recovery is needed any more it stands for an hour, in which it would come
back; where the driver cannot say, for a day, because only a reset ends it. An agent that was started anew counts from
zero, and that ends nothing. What an application does wrong (Xid 13, 31, 43 ...) says nothing about its GPU.

Which Xids count: NVIDIA's Xid catalogue, those whose action is to reset or to replace; node problem detectors of
several clouds act on the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from optiinfra.domain.agent_readings import GpuTrouble
from optiinfra.domain.evidence import Evidence, Finding, FindingType
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts, NodeFacts

CRITICAL_XIDS: Final[Mapping[int, str]] = {
    48: "an uncorrectable memory error",
    62: "a halted microcontroller",
    64: "a memory row that could not be remapped",
    74: "an NVLink error",
    79: "a GPU that fell off the bus",
    95: "an uncontained memory error",
    119: "a GPU system processor that does not answer",
    120: "a fault of the GPU system processor",
}
UNAVAILABLE: Final = -1
"""Stands among the numbers of Xids for the event by which newer drivers say that a GPU became unavailable."""
STANDS: Final = Seconds(3600.0)
"""How long an Xid counts after which the driver asks for nothing."""
STANDS_UNTOLD: Final = Seconds(86_400.0)
"""The same where the driver does not say whether a recovery is needed."""
_ACTIONS: Final[Mapping[int, str]] = {
    1: "a reset of the GPU",
    2: "a reboot of its node",
    3: "its node to be drained",
    4: "its node to be drained and the GPU to be reset",
}
_WATCHED: Final = (*CRITICAL_XIDS, UNAVAILABLE)
_INSTANT: Final = Seconds(0.0)
_SURE: Final = Ratio(0.95)


class TroubleReason(StrEnum):
    """Why a GPU is not well."""

    RECOVERY_NEEDED = "RecoveryNeeded"
    """The driver asks for a reset, a reboot or a drain."""
    ROW_REMAP_FAILED = "RowRemapFailed"
    """Its memory has a broken row and no spare one."""
    CRITICAL_XID = "CriticalXid"
    UNAVAILABLE = "Unavailable"
    """The driver reported an event: the GPU became unavailable. It stands as long as an Xid does."""
    LOST = "Lost"
    """Its agent showed it lately and shows it no longer, although the driver answers."""


@dataclass(slots=True)
class _Known:
    """What was heard of one node last."""

    time: UnixTime
    troubles: tuple[GpuTrouble, ...]


@dataclass(slots=True)
class HealthMemory:
    """When Xids were seen to grow, by node, GPU and number; it forgets nodes that are gone."""

    counts: dict[tuple[str, str, int], int] = field(default_factory=dict)
    grown: dict[tuple[str, str, int], UnixTime] = field(default_factory=dict)
    _known: dict[str, _Known] = field(default_factory=dict)

    def of(self, node: NodeFacts, *, now: UnixTime) -> tuple[GpuTrouble, ...]:
        """Judge the GPUs of a node by its agent's readings, oldest first; those of a silent agent stay as they were."""
        if not node.agent:
            return ()
        newest = node.agent[-1]
        known = self._known.get(node.name)
        # Most rounds lie between two readings, and a node that is well stays so between them.
        if known is None or known.time != newest.time or known.troubles:
            known = self._known[node.name] = _Known(newest.time, tuple(self._judge(node, newest, now=now)))
        return known.troubles

    def forget_except(self, nodes: Collection[str]) -> None:
        """Drop nodes that are gone."""
        for table in (self.counts, self.grown):
            for key in [key for key in table if key[0] not in nodes]:
                del table[key]
        for name in [name for name in self._known if name not in nodes]:
            del self._known[name]

    def _judge(self, node: NodeFacts, newest: AgentReading, *, now: UnixTime) -> Iterable[GpuTrouble]:
        for gpu in newest.gpus:
            self._count(node.name, gpu, now=now)
            trouble = _asked(node.name, gpu, newest.time) or self._xid(node.name, gpu, now=now)
            if trouble is not None:
                yield trouble
        if not isinstance(newest.gpu_source, Unknown):
            yield from _lost(node, newest)

    def _count(self, node: str, gpu: GpuFacts, *, now: UnixTime) -> None:
        for number, count in _counted(gpu):
            key = node, gpu.uuid, number
            if number in _WATCHED and count > 0 and count != self.counts.get(key, 0):
                # Fewer than before are those of an agent that was started anew: they happened since.
                self.counts[key], self.grown[key] = count, now

    def _xid(self, node: str, gpu: GpuFacts, *, now: UnixTime) -> GpuTrouble | None:
        stands = STANDS_UNTOLD if isinstance(gpu.faults.recovery_action, Unknown) else STANDS
        found = [
            (self.grown[node, gpu.uuid, number], number)
            for number in _WATCHED
            if (node, gpu.uuid, number) in self.grown
        ]
        lately = [(at, number) for at, number in found if 0.0 <= now - at < stands]
        if not lately:
            return None
        at, number = max(lately)
        count = self.counts[node, gpu.uuid, number]
        if number == UNAVAILABLE:
            text = f"its driver reported it as unavailable, {count} times since its agent's start"
            evidence = Evidence(
                "unavailable_events", float(count), "", _INSTANT, "agent", "sum", _place(node, gpu.uuid)
            )
            return GpuTrouble(node, gpu.uuid, gpu.model, TroubleReason.UNAVAILABLE, text, at, (evidence,))
        text = f"Xid {number} ({CRITICAL_XIDS[number]}), {count} since its agent's start"
        evidence = Evidence(f"xid_{number}", float(count), "", _INSTANT, "agent", "sum", _place(node, gpu.uuid))
        return GpuTrouble(node, gpu.uuid, gpu.model, TroubleReason.CRITICAL_XID, text, at, (evidence,))


def _counted(gpu: GpuFacts) -> Iterable[tuple[int, int]]:
    events = gpu.faults.unavailable_events
    if not isinstance(gpu.faults.xids, Unknown):
        yield from gpu.faults.xids
    if not isinstance(events, Unknown):
        yield UNAVAILABLE, int(events)


def finding(trouble: GpuTrouble, pods: Sequence[str]) -> Finding:
    """Return a trouble as a finding of the cluster's object; `pods` hold the GPU, as namespace/name."""
    message = f"{describe(trouble, pods)}."
    return Finding(FindingType.UNHEALTHY_GPU, trouble.reason, message, _SURE, trouble.evidence, subject=trouble.uuid)


def describe(trouble: GpuTrouble, pods: Sequence[str] = ()) -> str:
    """Write what is wrong, and whose work it concerns, for people; without a full stop."""
    held = f", held by {', '.join(pods[:3])}{' and others' if len(pods) > 3 else ''}" if pods else ""
    return f"GPU {trouble.uuid} of node {trouble.node}{held}: {trouble.message}"


def _asked(node: str, gpu: GpuFacts, at: UnixTime) -> GpuTrouble | None:
    """Return what the driver says itself."""
    action, failed, place = gpu.faults.recovery_action, gpu.faults.remap_failed, _place(node, gpu.uuid)
    if not isinstance(action, Unknown) and action >= 1.0:
        wanted = _ACTIONS.get(int(action), f"recovery action {action:.0f}")
        evidence = Evidence("recovery_action", action, "", _INSTANT, "agent", "last", place)
        text = f"its driver asks for {wanted}"
        return GpuTrouble(node, gpu.uuid, gpu.model, TroubleReason.RECOVERY_NEEDED, text, at, (evidence,))
    if not isinstance(failed, Unknown) and failed >= 1.0:
        evidence = Evidence("remap_failed", failed, "", _INSTANT, "agent", "last", place)
        text = "its memory has a broken row and no spare one: it has to be replaced"
        return GpuTrouble(node, gpu.uuid, gpu.model, TroubleReason.ROW_REMAP_FAILED, text, at, (evidence,))
    return None


def _lost(node: NodeFacts, newest: AgentReading) -> Iterable[GpuTrouble]:
    """Return the GPUs that readings of the last half hour showed and the newest does not."""
    shown = {gpu.uuid for gpu in newest.gpus}
    # Where a GPU was taken away on purpose, the node offers fewer; then nobody misses it.
    if not node.gpus > len(shown):
        return
    seen = {gpu.uuid: (gpu, one.time) for one in node.agent[:-1] for gpu in one.gpus if gpu.uuid not in shown}
    for uuid, (gpu, at) in seen.items():
        evidence = Evidence("gpus_shown", float(len(shown)), "gpus", _INSTANT, "agent", "last", f"node {node.name}")
        text = "its agent no longer shows it, although the driver answers"
        yield GpuTrouble(node.name, uuid, gpu.model, TroubleReason.LOST, text, at, (evidence,))


def _place(node: str, uuid: str) -> str:
    return f"GPU {uuid} of node {node}"
