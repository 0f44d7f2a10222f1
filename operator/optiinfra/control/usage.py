"""What containers really use, from metrics.k8s.io where it is served, gathered for right-sizing.

Read in the background at a slow pace; a cluster without a metrics server has no usage, which is a stated unknown and
never zero. Histories are kept per object and container name, over all pods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.cluster.usage import PodUsage
from optiinfra.control.keys import ObjectKey
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.right_sizing import ContainerUsage, ContainerUsageHistory
from optiinfra.domain.units import UnixTime


class UsageReader(Protocol):
    """Reads the use of a namespace's pods; `optiinfra.cluster.usage` is the real one."""

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        """Return the use of every pod of a namespace by name, or why it is not known."""


@dataclass(slots=True)
class UsageTable:
    """Usage histories by object and container."""

    reader: UsageReader
    unknown: dict[str, Unknown] = field(default_factory=dict)
    """Why nothing is known, by namespace."""
    _histories: dict[ObjectKey, dict[str, ContainerUsageHistory]] = field(default_factory=dict)
    _busiest: dict[ObjectKey, dict[str, tuple[UnixTime, float]]] = field(default_factory=dict)

    def of(self, key: ObjectKey) -> Mapping[str, ContainerUsageHistory]:
        """Histories of one object by container name; empty when nothing was measured."""
        return self._histories.get(key, {})

    def busiest(self, key: ObjectKey) -> Mapping[str, tuple[UnixTime, float]]:
        """When each container of an object was last measured, and the CPU cores that its busiest pod used then."""
        return self._busiest.get(key, {})

    async def refresh(self, namespace: str, owners: Mapping[str, ObjectKey]) -> None:
        """Read a namespace once and add what its pods use to the objects they belong to (pod name -> object)."""
        answer = await self.reader.pods(namespace)
        if isinstance(answer, Unknown):
            self.unknown[namespace] = answer
            return
        self.unknown.pop(namespace, None)
        for key in set(owners.values()):
            self._busiest.pop(key, None)
        for name, pod in answer.items():
            owner = owners.get(name)
            if owner is None:
                continue
            histories = self._histories.setdefault(owner, {})
            for container, used in pod.containers.items():
                self._note(owner, container, pod.time, used.cpu_cores)
                histories.setdefault(container, ContainerUsageHistory()).observe(
                    ContainerUsage(time=pod.time, cpu_cores=used.cpu_cores, memory_bytes=used.memory_bytes)
                )

    def _note(self, owner: ObjectKey, container: str, time: UnixTime, cores: Value) -> None:
        if isinstance(cores, Unknown):
            return
        known = self._busiest.setdefault(owner, {})
        _, most = known.get(container, (time, 0.0))
        if cores >= most:
            known[container] = time, cores

    def forget_except(self, alive: set[ObjectKey]) -> None:
        """Drop histories of objects that are gone."""
        for key in [key for key in self._busiest if key not in alive]:
            del self._busiest[key]
        for key in [key for key in self._histories if key not in alive]:
            del self._histories[key]
