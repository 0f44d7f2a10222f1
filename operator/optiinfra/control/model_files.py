"""Models' configuration files that objects name (`spec.model.configMapRef`), read in the background and seldom.

A file is read soon after the first object names it and then every five minutes, at most eight a second in all, oldest
first; objects that name the same one share it. No round and no upkeep waits for it. That the API server does not answer
is no news: what the file said before still stands. A change brings a round of the objects forward, and one log line.
"""

import asyncio
import heapq
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from optiinfra.api.v1alpha1 import ConfigMapKeyRef
from optiinfra.control.keys import ObjectKey
from optiinfra.control.registry import Registry
from optiinfra.domain.evidence import RecommendationType, Refusal
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason

_LOG = logging.getLogger(__name__)
INTERVAL: Final = 300.0
AT_ONCE: Final = 8
_PAUSE: Final = 1.0


class FileName(NamedTuple):
    """Where a file lies."""

    namespace: str
    name: str
    key: str

    @classmethod
    def of(cls, namespace: str, reference: ConfigMapKeyRef) -> "FileName":
        """Return the name of what an object of this namespace refers to."""
        return cls(namespace, reference.name, reference.key)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file says, for one round; nothing where none is named or it was not read yet."""

    facts: ModelFacts = field(default_factory=ModelFacts)
    notes: tuple[Refusal, ...] = ()
    """Why it cannot be used, for the person who named it."""


class FileReader(Protocol):
    """Reads one file; `optiinfra.cluster.model_files` is the real one."""

    async def read(self, *, namespace: str, name: str, key: str) -> ModelFacts | Unknown:
        """Return what it says, or why that cannot be known."""


@dataclass(slots=True)
class _Known:
    answer: ModelFacts | Unknown | None = None
    read_at: float = float("-inf")


@dataclass(slots=True)
class ModelFileTable:
    """Known files."""

    reader: FileReader
    registry: Registry
    clock: Callable[[], float]
    """Monotonic seconds."""
    changed: Callable[[ObjectKey], None]
    """Called with each object whose file now says something else."""
    _known: dict[FileName, _Known] = field(default_factory=dict)

    def of(self, namespace: str, reference: ConfigMapKeyRef | None) -> ModelFile:
        """Return what is known of the file that an object names."""
        if reference is None:
            return ModelFile()
        name = FileName.of(namespace, reference)
        known = self._known.get(name)
        if known is None or known.answer is None:
            return ModelFile()
        if isinstance(known.answer, Unknown):
            return ModelFile(notes=(_refusal(name, known.answer),))
        return ModelFile(known.answer)

    async def run(self) -> None:
        """Read for ever; cancel to stop."""
        while True:
            await self.refresh()
            await asyncio.sleep(_PAUSE)

    async def refresh(self) -> None:
        """Read the files that are due, a few at once, and forget those that no object names any more."""
        wanted = self._wanted()
        self._known = {name: self._known.get(name, _Known()) for name in wanted}
        now = self.clock()
        due = [name for name, known in self._known.items() if now - known.read_at >= INTERVAL]
        oldest = heapq.nsmallest(AT_ONCE, due, key=lambda name: self._known[name].read_at)
        async with asyncio.TaskGroup() as group:
            for name in oldest:
                group.create_task(self._read(name, wanted[name]), name="read model file")

    def _wanted(self) -> Mapping[FileName, list[ObjectKey]]:
        wanted: dict[FileName, list[ObjectKey]] = {}
        for key, obj in self.registry.services():
            if obj.spec.model.config_map_ref is not None:
                wanted.setdefault(FileName.of(key.namespace, obj.spec.model.config_map_ref), []).append(key)
        return wanted

    async def _read(self, name: FileName, owners: list[ObjectKey]) -> None:
        known = self._known[name]
        answer = await self.reader.read(namespace=name.namespace, name=name.name, key=name.key)
        known.read_at = self.clock()
        unanswered = isinstance(answer, Unknown) and answer.reason is UnknownReason.UNREACHABLE
        if answer == known.answer or (unanswered and isinstance(known.answer, ModelFacts)):
            return
        known.answer = answer
        where = {"namespace": name.namespace, "configmap": name.name, "key": name.key}
        if isinstance(answer, Unknown):
            _LOG.warning("model file not read", extra={**where, "cause": str(answer)})
        else:
            _LOG.info("model file read", extra=where)
        for owner in owners:
            self.changed(owner)


def _refusal(name: FileName, cause: Unknown) -> Refusal:
    return Refusal(
        RecommendationType.KV_CACHE,
        "ModelFileUnreadable",
        f"ConfigMap {name.name}, key {name.key} (spec.model.configMapRef) is not used: {cause.detail} "
        f"({cause.reason}). Until then the model is known by spec.model and the engine's arguments alone.",
    )
