"""Floors given back by the sweep, after the question whether this process may patch the HPA at all.

Actuation asks for its own writes; the sweep gives back what no living object speaks for, and is held to the same: no
write into a user's object without a SelfSubjectAccessReview before it. An answer counts for a minute. It takes nothing
and forces nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from optiinfra.cluster.access import Attributes, Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Denied
from optiinfra.cluster.floor import FloorHeld, FloorRefusal, FloorReleased
from optiinfra.control.release import FloorGiver

_ANSWER_LASTS: Final = 60.0


class PermissionReader(Protocol):
    """Asks what this process may do; `optiinfra.cluster.access` is the real one."""

    async def may_i(self, attributes: Attributes) -> Verdict:
        """SelfSubjectAccessReview."""


@dataclass(slots=True)
class AskingFloor:
    """A `FloorGiver` that asks first."""

    floor: FloorGiver
    access: PermissionReader
    clock: Callable[[], float]
    """Monotonic seconds."""
    _answers: dict[str, tuple[float, bool]] = field(default_factory=dict)

    async def release(
        self, key: Key, *, uid: str = "", max_step: int | None = None
    ) -> FloorHeld | FloorReleased | FloorRefusal:
        """Give the floor back, or one step of it.

        Raises:
            Denied: this process may not patch HorizontalPodAutoscalers in that namespace.
        """
        until, allowed = self._answers.get(key.namespace, (0.0, False))
        if until <= self.clock():
            wanted = Attributes(
                verb="patch", group="autoscaling", resource="horizontalpodautoscalers", namespace=key.namespace
            )
            allowed = (await self.access.may_i(wanted)).allowed
            self._answers[key.namespace] = self.clock() + _ANSWER_LASTS, allowed
        if not allowed:
            text = f"may not patch HorizontalPodAutoscalers in {key.namespace}"
            raise Denied(f"{text}; set actuation.enabled in the chart's values")
        return await self.floor.release(key, uid=uid, max_step=max_step)
