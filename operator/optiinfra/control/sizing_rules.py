"""The rules of the namespaces whose containers are sized, read again every few minutes while we lead.

A namespace that was never read, or that could not be read now, has unknown rules: what was known before is not passed
on as if it still held.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from optiinfra.domain.sizing_rules import NamespaceRules

KEPT_S: Final = 300.0
NOT_READ: Final = NamespaceRules()


class RulesReader(Protocol):
    """Reads the rules of a namespace; `optiinfra.cluster.sizing_rules` is the real one."""

    async def read(self, namespace: str) -> NamespaceRules:
        """Return them; what could not be read is an Unknown inside."""


@dataclass(slots=True)
class SizingRulesTable:
    """Rules by namespace."""

    reader: RulesReader
    clock: Callable[[], float]
    """Monotonic."""
    _known: dict[str, tuple[float, NamespaceRules]] = field(default_factory=dict)

    def of(self, namespace: str) -> NamespaceRules:
        """Return what is known of a namespace."""
        return self._known.get(namespace, (0.0, NOT_READ))[1]

    async def refresh(self, namespaces: Collection[str]) -> None:
        """Read what is due, one after another, and forget namespaces that nobody asks about any more."""
        for gone in [name for name in self._known if name not in namespaces]:
            del self._known[gone]
        for namespace in namespaces:
            read_at, _ = self._known.get(namespace, (-KEPT_S, NOT_READ))
            if self.clock() - read_at >= KEPT_S:
                self._known[namespace] = self.clock(), await self.reader.read(namespace)
