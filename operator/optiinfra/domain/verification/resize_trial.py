"""One resize under verification: what was measured before it, of the whole workload and of the pod that is asked first.

What it holds cannot be measured again, so it is kept in the workload's checkpoint (`saved`) and the next leader goes on
with it. Nothing is judged here; `judge` does, with the pods that were not touched as the control of the first one.
"""

from dataclasses import dataclass

from optiinfra.domain.units import UnixTime
from optiinfra.domain.verification.attribution import Scene
from optiinfra.domain.verification.expectation import Expectation
from optiinfra.domain.verification.trail import Block


@dataclass(slots=True)
class ResizeTrial:
    """What a resize is judged by."""

    id: str
    """Of the recommendation that is applied."""
    rule: str
    """Direction and rule that asked for it, as the track record has it: "Resize/OverRequested"."""
    begun: Scene
    expectation: Expectation
    """Of the whole workload."""
    before: tuple[Block, ...]
    """The whole workload's."""
    first: str
    """Name of the pod that is asked first."""
    first_expectation: Expectation
    first_before: tuple[Block, ...]
    others: tuple[str, ...]
    """Names of the pods that are not touched while the first one is watched."""
    others_before: tuple[Block, ...]
    """Theirs together."""
    first_at: UnixTime | None = None
    """When the first pod had its size."""
    first_judged: bool = False
    done_at: UnixTime | None = None
    """When all pods had it."""
