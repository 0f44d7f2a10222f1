"""The operator's own decision as a rule of the replay: it sees what its 15 s scrapes would have shown, and no more."""

import numpy as np

from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, SYNC_S, Fleet, FloatArray, IntArray, View
from optiinfra.domain.scaler.decide import Scaler
from optiinfra.domain.scaler.decision import FleetDecision
from optiinfra.domain.scaler.observation import Observation, Services
from optiinfra.domain.scaler.tuning import DEFAULT, Tuning
from optiinfra.domain.units import UnixTime


class Learned:
    """`optiinfra.domain.scaler` over all runs of a fleet; a load is in replicas, so a replica's capacity is 1."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        late_after_s: float | FloatArray = 10.0,
        late_share: float | FloatArray = 0.01,
        tuning: Tuning = DEFAULT,
    ) -> None:
        """Begin without history; an objective is one for all runs, or (runs,)."""
        runs = len(fleet.load)
        self.scaler = Scaler(fleet.replicas, tuning=tuning)
        self._asked: tuple[Services, UnixTime] | None = None
        self._start_up = fleet.start_up * (SYNC_S / STEPS_PER_SYNC)
        self._ones = np.ones(runs)
        self._late_after = np.full(runs, late_after_s)
        self._late_share = np.full(runs, late_share)
        self._unpaused = np.zeros(runs, dtype=np.bool_)

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        services = Services(
            capacity=self._ones,
            start_up_p50=np.maximum(self._start_up, 1.0),
            start_up_p95=np.maximum(self._start_up, 1.0),
            current=view.replicas,
            minimum=view.fleet.minimum,
            maximum=view.fleet.maximum,
            late_after_s=self._late_after,
            late_share=self._late_share,
            paused=self._unpaused,
        )
        seen = Observation(arrived=view.arrivals(STEPS_PER_SYNC), backlog=view.backlog(), ready=view.observed_ready())
        now = UnixTime(view.now)
        self._asked = (services, now)
        return self.scaler.desired((seen,), services, now=now)

    @property
    def last(self) -> FleetDecision:
        """The last decision with all that explains it; asking again within a tick changes nothing."""
        if self._asked is None:
            raise ValueError("nothing was decided yet: play the fleet first")
        services, now = self._asked
        return self.scaler.decide((), services, now=now)
