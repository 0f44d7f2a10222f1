"""What a workload's start-ups come to: median and p95, by stage, what starts now, and stock-outs.

It is the answer of `start_up`, and what the scaler, the status and people read. A duration that was not measured is
unknown; `planned` is the one place where a prior stands in for it. Numbers stand beside how many pods they rest on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.start_stages import BEFORE_READY, STAGES, Stage, Start
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.waiting_times import Spread, spread

ABANDONED_FOR: Final = Seconds(86400.0)
"""How long pods count that went away before they were ready, and stock-outs."""
STOCK_OUT: Final = Seconds(120.0)
"""A pod that waits longer for a node met a stock-out: nothing was free, and nothing came soon."""
LONGEST: Final = Seconds(3600.0)
"""A start that takes longer counts as this long: a pod that never starts is no measure of those that do."""
SHORTEST: Final = Seconds(1.0)
"""The least that is planned with: the API's times are whole seconds."""

_NONE_PENDING: Final = Unknown(UnknownReason.NOT_MEASURED, "no pod is pending")
_NONE_STARTING: Final = Unknown(UnknownReason.NOT_MEASURED, "no pod is starting")
_NONE_STARTED: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "no pod was started in the last day")


@dataclass(frozen=True, slots=True)
class StartUp:
    """What is known of a workload's start-ups at one moment. Durations in seconds."""

    total: Spread
    """From a pod's creation until it was ready."""
    once_there: Spread
    """The same without the time before the pod had its node: what a warm node would take."""
    stages: Mapping[Stage, Spread]
    pending: int = 0
    """Pods without a node now."""
    pending_oldest: Value = _NONE_PENDING
    """Age of the oldest of them."""
    starting: int = 0
    """Pods with a node that have not been ready yet."""
    starting_oldest: Value = _NONE_STARTING
    stock_outs: int = 0
    """Pods that waited for a node longer than two minutes, of those kept from the last day; 2 x 32 are kept."""
    stock_out_share: Value = _NONE_STARTED

    @property
    def p50(self) -> Value:
        """Median time from creation to ready."""
        return self.total.p50

    @property
    def p95(self) -> Value:
        """95th percentile of it; of fewer than twenty pods, the longest."""
        return self.total.p95

    @property
    def samples(self) -> int:
        """Pods that were seen to become ready."""
        return self.total.samples

    @property
    def longest_stage(self) -> tuple[Stage, Seconds] | None:
        """The stage before Ready with the largest median, and that; None while none took any time."""
        medians = [(stage, self.stages[stage].p50) for stage in BEFORE_READY]
        known = [(stage, Seconds(value)) for stage, value in medians if not isinstance(value, Unknown) and value > 0.0]
        return max(known, key=lambda one: one[1]) if known else None

    def planned(self, *, prior: Seconds) -> tuple[Seconds, Seconds]:
        """Return median and p95 to plan with, at least a second and at most an hour.

        Where no pod was seen to become ready it is the prior, and p95 is as long as the oldest pod has waited.
        """
        if isinstance(self.p50, Unknown) or isinstance(self.p95, Unknown):
            ages = [age for age in (self.pending_oldest, self.starting_oldest) if not isinstance(age, Unknown)]
            middle, high = float(prior), max(prior, *ages, 0.0)
        else:
            middle, high = self.p50, self.p95
        return _plannable(middle), _plannable(high)


def said(start_up: StartUp) -> str:
    """Say it in one or two sentences, for a status or a log."""
    p50, p95 = start_up.p50, start_up.p95
    if isinstance(p50, Unknown) or isinstance(p95, Unknown):
        text = f"start-up {p50}"
    else:
        pods = "1 pod" if start_up.samples == 1 else f"{start_up.samples} pods"
        bound = "at least " if start_up.total.at_least else ""
        text = f"start-up {p50:.0f} s in the median, p95 {bound}{p95:.0f} s, of {pods}"
        if start_up.longest_stage is not None:
            stage, seconds = start_up.longest_stage
            text += f"; longest stage {stage}, {seconds:.0f} s in the median"
    if not isinstance(start_up.pending_oldest, Unknown):
        text += f"; {start_up.pending} pending for up to {start_up.pending_oldest:.0f} s"
    if start_up.stock_outs:
        text += f"; {start_up.stock_outs} waited more than {STOCK_OUT:.0f} s for a node in the last day"
    return text


def summarise(ready: list[Start], starting: list[Start], abandoned: list[Start], *, now: UnixTime) -> StartUp:
    """Join the starts of a workload's pods: those that became ready, those under way, those that went away."""
    unfinished = [*starting, *abandoned]
    waiting = [start for start in starting if start.scheduled is None]
    moving = [start for start in starting if start.scheduled is not None]
    day = [start for start in ready if now - end_of(start) < ABANDONED_FOR] + unfinished
    waits = [start.node_wait for start in day]
    known = [wait for wait in waits if wait is not None]
    stock_outs = sum(1 for wait in known if wait > STOCK_OUT)
    return StartUp(
        total=spread(
            [_clipped(start.total) for start in ready],
            [_clipped(start.total) for start in unfinished],
            what="a pod that became ready",
        ),
        once_there=spread(*_once_there(ready, unfinished), what="a pod that became ready"),
        stages={stage: _stage(stage, ready, unfinished) for stage in STAGES},
        pending=len(waiting),
        pending_oldest=max((float(start.total) for start in waiting), default=_NONE_PENDING),
        starting=len(moving),
        starting_oldest=max((float(start.total) for start in moving), default=_NONE_STARTING),
        stock_outs=stock_outs,
        stock_out_share=stock_outs / len(known) if known else _NONE_STARTED,
    )


def _once_there(ready: Iterable[Start], unfinished: Iterable[Start]) -> tuple[list[float], list[float]]:
    ended, waiting = (
        [_clipped(start.total - start.scheduled) for start in starts if start.scheduled is not None]
        for starts in (ready, unfinished)
    )
    return ended, waiting


def _stage(stage: Stage, ready: Iterable[Start], unfinished: Iterable[Start]) -> Spread:
    index = STAGES.index(stage)
    ended: list[float] = []
    waiting: list[float] = []
    for start in (*ready, *unfinished):
        seconds = start.seconds[index]
        if seconds is not None:
            (waiting if start.current is stage else ended).append(_clipped(seconds))
    return spread(ended, waiting, what=f"the end of the stage {stage}")


def end_of(start: Start) -> int:
    """Return the moment at which it was ready, or last seen."""
    return start.created + start.total


def _clipped(seconds: float) -> float:
    return min(float(seconds), LONGEST)


def _plannable(seconds: float) -> Seconds:
    return Seconds(min(LONGEST, max(SHORTEST, seconds)))
