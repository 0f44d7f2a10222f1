"""Times of which nothing is known: how rules live through them, and how they are left out of the figures.

A gap is no quiet time. In it nothing is simulated to arrive and nothing is counted: no replica, no work, no action. The
operator's decision sees an unknown load, as it would have; a plain HPA whose metric is missing leaves the replicas as
they are, as Kubernetes does. A rule that looks back over a minute uses what is known of it.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from optiinfra.domain.replay.baselines import MEAN_STEPS
from optiinfra.domain.replay.figures import WINDOW_S, Ledger, windows
from optiinfra.domain.replay.fluid import STEP_S, STEPS_PER_SYNC, Fleet, FloatArray, IntArray, Policy, View

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class KnownView(View):
    """A view in which arrivals of unknown steps are missing instead of none."""

    counted: IntArray = None  # type: ignore[assignment]  # the fields before it have defaults; `Gaps` always gives it
    """(steps + 1,): how many of the steps before each are known."""

    def known(self, steps: int) -> int:
        """How many of the newest `steps` visible steps are known."""
        end = max(1, self.newest)
        return int(self.counted[end] - self.counted[max(0, end - steps)])

    def arrivals(self, steps: int) -> FloatArray:
        """Mean load of the known ones among the newest `steps` steps; NaN where none is."""
        end = max(1, self.newest)
        known = self.known(steps)
        if not known:
            return np.full(len(self.fleet.load), np.nan)
        mean: FloatArray = (self.fleet.arrived[:, end] - self.fleet.arrived[:, max(0, end - steps)]) / known
        return mean


class Gaps:
    """Which steps of a load are known; the same for all runs that are played over it."""

    def __init__(self, known: Bools) -> None:
        """`known` is (steps,)."""
        self.known = known
        self._counted: IntArray = np.concatenate([[0], np.cumsum(known, dtype=np.int64)])

    def seeing(self, policy: Policy) -> Policy:
        """Show a rule missing arrivals as NaN: for rules that know what to do then."""
        return lambda view: policy(self._view(view))

    def holding(self, policy: Policy, *, steps: int = MEAN_STEPS) -> Policy:
        """Leave the replicas as they are while none of the newest `steps` steps is known."""

        def held(view: View) -> IntArray:
            seen = self._view(view)
            return policy(seen) if seen.known(steps) else view.replicas

        return held

    def _view(self, view: View) -> KnownView:
        return KnownView(view.fleet, view.lag, counted=self._counted)

    def ledger(self, fleet: Fleet, *, count_from_s: float = 0.0, late_after_s: float = 10.0) -> Ledger:
        """Read a played fleet without its gaps; the load of an unknown step must be 0."""
        whole = Ledger.of(fleet, count_from_s=count_from_s, late_after_s=late_after_s)
        if self.known.all():
            return whole
        first = min(fleet.syncs - 1, round(count_from_s / STEP_S / STEPS_PER_SYNC)) * STEPS_PER_SYNC
        width = round(WINDOW_S / STEP_S)
        seconds = np.broadcast_to(self.known[first:] * STEP_S, (len(fleet.load), fleet.load.shape[1] - first))
        paid = np.repeat(fleet.asked, STEPS_PER_SYNC, axis=1)[:, first : fleet.load.shape[1]].astype(np.float64)
        changed = np.zeros_like(fleet.asked, dtype=np.float64)
        changed[:, 1:] = fleet.asked[:, 1:] != fleet.asked[:, :-1]
        changed *= self.known[::STEPS_PER_SYNC][: fleet.syncs]
        return replace(
            whole,
            paid=windows(paid * seconds, steps=width),
            actions=windows(changed[:, first // STEPS_PER_SYNC :], steps=width // STEPS_PER_SYNC),
            seconds=windows(seconds, steps=width),
        )
