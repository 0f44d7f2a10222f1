"""Kubernetes' own scaler and its kin, from their documented rules, over many runs at once.

Sources: kubernetes/kubernetes `pkg/controller/podautoscaler/{horizontal,replica_calculator}.go` (v2 defaults),
kedacore/keda (an HPA behind an external metric), knative/serving `pkg/autoscaler/scaling/autoscaler.go`.
Each keeps exactly the constants of its documentation; targets are arguments. They are yardsticks: nothing in the
operator uses them.
"""

from typing import Final

import numpy as np

from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, SYNC_S, FloatArray, IntArray, View, rise_limited

TOLERANCE: Final = 0.1
STABILIZATION_S: Final = 300.0
MEAN_STEPS: Final = 12
"""The metrics pipeline's minute."""
_SLACK: Final = 1e-9


def ceiled(value: FloatArray) -> IntArray:
    """Round up, forgiving the last bits of a float."""
    return np.ceil(value - _SLACK).astype(np.int64)


class Stabilized:
    """HPA's downscale stabilisation: the highest recommendation of the last five minutes (300 s by default).

    The controller counts what runs when it first looks as a recommendation: nothing falls for the first five minutes.
    """

    def __init__(self, *, seconds: float = STABILIZATION_S) -> None:
        self._length = max(1, round(seconds / SYNC_S))
        self._past: IntArray | None = None

    def __call__(self, proposed: IntArray, *, sync: int, current: IntArray) -> IntArray:
        """Note a recommendation and give back the highest one of the window."""
        if self._past is None:
            self._past = np.repeat(current[None, :], self._length, axis=0).astype(np.int64)
        self._past[sync % self._length] = proposed
        highest: IntArray = self._past.max(axis=0)
        return highest


class HpaRate:
    """HPA v2 on an external metric with AverageValue: the rate of work a replica, as a share of what it can serve.

    desired = ceil(total / target), skipped while total / (target x current) is within 10 % of one.
    """

    def __init__(self, target: FloatArray, *, mean_steps: int = MEAN_STEPS) -> None:
        self._target = target
        self._mean_steps = mean_steps
        self._stabilized = Stabilized()

    def metric(self, view: View) -> FloatArray:
        """Return the total of the metric, in replicas."""
        return view.arrivals(self._mean_steps)

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        current = view.replicas
        total = self.metric(view)
        ratio = total / (self._target * current)
        proposed = np.where(np.abs(ratio - 1.0) <= TOLERANCE, current, ceiled(total / self._target))
        # The rise limit counts from what runs; the controller applies it after the stabilisation window.
        return rise_limited(self._stabilized(proposed, sync=view.sync, current=current), current)


class HpaUtilization:
    """HPA v2 on the utilisation of pods: ceil(ready x use / target); unready pods count 0 when growing.

    A share of busy time never exceeds one, which is why this rule climbs in steps of 1 / target.
    """

    def __init__(self, target: FloatArray, *, mean_steps: int = MEAN_STEPS) -> None:
        self._target = target
        self._mean_steps = mean_steps
        self._stabilized = Stabilized()

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        current = view.replicas
        capacity = np.maximum(view.capacity(self._mean_steps), _SLACK)
        use = np.minimum(view.served(self._mean_steps) / capacity, 1.0)
        ready = view.ready
        ratio = use / self._target
        unready = current - ready
        # Growing: the not yet ready count as idle; if that turns the direction, nothing is done.
        diluted = np.where(current > 0, use * ready / np.maximum(current, 1), 0.0) / self._target
        growing = (ratio > 1.0) & (unready > 0)
        effective = np.where(growing, diluted, ratio)
        counted = np.where(growing, current, ready)
        turned = growing & (diluted < 1.0)
        proposed = np.where(
            (np.abs(effective - 1.0) <= TOLERANCE) | turned, current, ceiled(effective * np.maximum(counted, 1))
        )
        return rise_limited(self._stabilized(np.maximum(proposed, 1), sync=view.sync, current=current), current)


class KedaInFlight(HpaRate):
    """KEDA's Prometheus trigger on requests in flight, `threshold` a replica: an HPA with AverageValue.

    Requests in flight are those in service (one slot-share a busy replica) and those that wait; `threshold` is a share
    of a replica's slots. Polled every 30 s, no smoothing; the HPA behind it keeps its defaults.
    """

    def __init__(self, threshold: FloatArray, *, service_s: float = 8.0) -> None:
        super().__init__(threshold)
        self._service_s = service_s
        self._polled: FloatArray | None = None

    def metric(self, view: View) -> FloatArray:
        """Return requests in flight over a replica's slots, as of the last poll."""
        if self._polled is None or view.sync % 2 == 0:
            busy = np.minimum(view.served(STEPS_PER_SYNC), view.capacity(STEPS_PER_SYNC))
            self._polled = busy + view.backlog() / self._service_s
        return self._polled


class Kpa:
    """Knative's KPA on concurrency: 60 s stable window, 6 s panic window (one scrape here), panic at twice the target.

    desired = ceil(mean / target); in panic the short mean decides, nothing shrinks, and panic ends 60 s after the last
    trigger. Rises are limited to ten-fold, falls to half of what is ready; shrinks keep the 30 s delay of nobody (0 s).
    """

    STABLE_STEPS: Final = 12
    PANIC_STEPS: Final = 3
    PANIC_THRESHOLD: Final = 2.0
    MAX_UP: Final = 1000.0
    MAX_DOWN: Final = 2.0

    def __init__(self, target: FloatArray, *, service_s: float = 8.0) -> None:
        self._target = target
        self._service_s = service_s
        self._panic_until: FloatArray | None = None
        self._panic_high: IntArray | None = None

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        ready = np.maximum(view.ready, 1)
        waiting = view.backlog() / self._service_s
        stable = view.served(self.STABLE_STEPS) + waiting
        short = view.served(self.PANIC_STEPS) + waiting
        up, down = np.ceil(self.MAX_UP * ready), np.floor(ready / self.MAX_DOWN)
        want = np.clip(ceiled(stable / self._target), down, up).astype(np.int64)
        urgent = np.clip(ceiled(short / self._target), down, up).astype(np.int64)
        if self._panic_until is None or self._panic_high is None:
            self._panic_until = np.full(len(ready), -1.0)
            self._panic_high = np.zeros(len(ready), dtype=np.int64)
        triggered = urgent / ready >= self.PANIC_THRESHOLD
        was = self._panic_until > view.now
        self._panic_until = np.where(triggered, view.now + self.STABLE_STEPS * 5.0, self._panic_until)
        panic = self._panic_until > view.now
        self._panic_high = np.where(panic, np.maximum(np.where(was, self._panic_high, view.replicas), urgent), 0)
        return np.where(panic, self._panic_high, want)
