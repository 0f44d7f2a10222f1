"""The idle verdict over a file of samples, judged by what the file itself shows afterwards.

Every GPU's samples go through the operator's own memory (`fleet`) one by one; the verdict at a sample has seen nothing
later. It is right when no work follows within the horizon. Where the file ends before that, or has a hole or a moment
without a known activity there, nobody knows, and the verdict is not counted; work that is seen settles it.

A file says nothing of pods: a filled memory makes `IdleHeldMemory`, an empty one `IdleAllocatedEmpty`, and who holds
it stays open. Work in the future is activity above the policy's `idle_utilization`: the same number for every rule
that is compared, which is why it is no setting.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optiinfra.domain.idle.fleet import IdleMemory, Judged, Samples, Sight
from optiinfra.domain.idle.gaps import Flags, Floats
from optiinfra.domain.idle.states import HIGH_USE, SURE_OF_WORK, GpuState, IdlePolicy

STATES: Final = tuple(GpuState)
_CODE: Final = {state: code for code, state in enumerate(STATES)}
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class History:
    """Samples of some GPUs, in the order of GPU and time; no two rows of one GPU have the same time. NaN: not known."""

    gpus: tuple[str, ...]
    start: NDArray[np.intp]
    """(gpus + 1): rows of GPU i are start[i] to start[i + 1]."""
    time: Floats
    duty: Floats
    memory: Floats
    power: Floats
    sm_active: Floats

    def rows(self, gpu: int) -> slice:
        """Return the rows of a GPU."""
        return slice(int(self.start[gpu]), int(self.start[gpu + 1]))

    @property
    def activity(self) -> Floats:
        """The larger of what is known of duty and active multiprocessors."""
        return np.fmax(self.duty, self.sm_active)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was said at every row of a history."""

    state: NDArray[np.int8]
    """Index into `STATES`."""
    confidence: Floats
    sight: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Latest:
    """What stands at a GPU's last sample."""

    gpu: str
    state: GpuState
    confidence: float
    sight: Sight
    judged: Judged
    """Arrays of length 1."""
    samples: int
    first_s: float
    last_s: float
    idle_hours: float
    """Time spent under an idle verdict."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How good some verdicts were. A share of nothing is NaN here and said as such where it is printed."""

    right: int
    """Idle, and no work followed within the horizon."""
    wrong: int
    """Idle, and work followed."""
    missed: int
    """Not idle, and no work followed."""
    passed: int
    """Not idle, and work followed."""
    unjudged: int
    """The file does not tell what followed."""
    on_busy: int
    """Idle at a sample that itself shows work."""
    gpus_wrong: int
    """GPUs with any wrong verdict."""
    freed_hours: float
    """Time under a right idle verdict."""
    wrong_hours: float
    idle_hours: float
    """Time that could have been freed by who knew the future."""

    @property
    def precision(self) -> float:
        """Right of all idle verdicts; NaN without any."""
        said = self.right + self.wrong
        return self.right / said if said else float("nan")

    @property
    def recall(self) -> float:
        """Found of all that was idle; NaN where nothing was."""
        was = self.right + self.missed
        return self.right / was if was else float("nan")


@dataclass(frozen=True, slots=True)
class Replayed:
    """A whole replay."""

    decisions: Decisions
    latest: tuple[Latest, ...]


def replay(
    history: History, *, policy: IdlePolicy | None = None, told: Callable[[int], None] = lambda _rows: None
) -> Replayed:
    """Play every sample through the verdict, in the order of time; `told` hears how many rows were done since."""
    policy = policy or IdlePolicy()
    memory = IdleMemory(policy)
    count = len(history.gpus)
    columns = np.array([memory.column("", gpu) for gpu in history.gpus], dtype=np.intp)
    rows = len(history.time)
    sight = np.zeros(rows, dtype=np.int8)
    probability, sure, used = (np.full(rows, np.nan) for _ in range(3))
    empty, worked = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
    for gpus, here in _waves(history, count):
        memory.observe(_samples(history, columns[gpus], here))
        judged = memory.judge(columns[gpus])
        sight[here], probability[here], sure[here] = judged.sight, judged.probability, judged.confidence
        used[here], empty[here], worked[here] = judged.used, judged.empty, judged.worked
        told(len(here))
    state = states(sight, used=used, empty=empty, worked=worked)
    decisions = Decisions(state, confidences(sight, sure=sure, probability=probability), sight)
    held = spans(history)
    idle = held * idle_codes(state)
    latest = tuple(_latest(history, memory, columns, decisions, idle, gpu) for gpu in range(count))
    return Replayed(decisions, latest)


def _waves(history: History, count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the n-th sample of every GPU that has one: GPUs do not depend on each other, so clocks need not meet."""
    lengths = np.diff(history.start)
    order = np.argsort(-lengths, kind="stable")
    for wave in range(int(lengths.max()) if count else 0):
        gpus = order[: int((lengths > wave).sum())]
        yield gpus, history.start[gpus] + wave


def _samples(history: History, columns: NDArray[np.intp], here: NDArray[np.intp]) -> Samples:
    unknown = np.full(len(here), np.nan)
    return Samples(
        gpu=columns,
        time=history.time[here],
        duty=history.duty[here],
        memory=history.memory[here],
        power=history.power[here],
        sm_active=history.sm_active[here],
        power_limit=unknown,
        transfer=unknown,
        working=np.zeros(len(here), dtype=np.bool_),
    )


def states(sight: NDArray[np.int8], *, used: Floats, empty: Flags, worked: Flags) -> NDArray[np.int8]:
    """Return the states, as indices into `STATES`, as far as they can be said without knowing the pods."""
    idle = np.where(empty, _CODE[GpuState.IDLE_ALLOCATED_EMPTY], _CODE[GpuState.IDLE_HELD_MEMORY])
    with np.errstate(invalid="ignore"):
        working = np.where(used >= HIGH_USE, _CODE[GpuState.ACTIVE], _CODE[GpuState.UNDER_USED])
    works = (sight == Sight.WORK) | ((sight == Sight.EXPECTED) & worked)
    return np.select([sight == Sight.IDLE, works], [idle, working], default=_CODE[GpuState.UNKNOWN]).astype(np.int8)


def confidences(sight: NDArray[np.int8], *, sure: Floats, probability: Floats) -> Floats:
    """Return how sure each verdict is: for idle GPUs the probability; none for what is unknown."""
    expected = np.clip(1.0 - probability, 0.0, 1.0)
    chosen = [sight == Sight.IDLE, sight == Sight.EXPECTED, sight == Sight.WORK]
    return np.select(chosen, [sure, expected, np.full(len(sight), SURE_OF_WORK)], default=0.0)


def idle_codes(state: NDArray[np.int8]) -> Flags:
    """Tell which of some states are idle ones."""
    codes = [
        _CODE[one] for one in (GpuState.IDLE_UNALLOCATED, GpuState.IDLE_ALLOCATED_EMPTY, GpuState.IDLE_HELD_MEMORY)
    ]
    return np.isin(state, codes)


def spans(history: History) -> Floats:
    """Return for each row for how many hours it speaks: until the GPU's next sample, a hole excepted; (rows)."""
    found = np.zeros(len(history.time))
    for gpu in range(len(history.gpus)):
        rows = history.rows(gpu)
        steps = np.diff(history.time[rows])
        if not len(steps):
            continue
        longest = _longest_step(steps)
        found[rows][:-1] = np.where(steps <= longest, steps, 0.0) / _HOUR
    return found


def truth(history: History, *, policy: IdlePolicy | None = None) -> NDArray[np.int8]:
    """Return for each row what followed: 1 no work within the horizon, 0 work, -1 nobody knows; (rows)."""
    policy = policy or IdlePolicy()
    found = np.full(len(history.time), -1, dtype=np.int8)
    activity = history.activity
    for gpu in range(len(history.gpus)):
        rows = history.rows(gpu)
        time, active = history.time[rows], activity[rows]
        if not len(time):
            continue
        work = time[active > policy.idle_utilization]
        following = np.append(work, np.inf)[np.searchsorted(work, time, side="right")]
        steps = np.diff(time)
        longest = _longest_step(steps)
        # A hole begins at once after its last sample, which therefore sees it before itself.
        holes = np.nextafter(time[:-1][steps > longest], np.inf)
        blind = np.concatenate([holes, time[np.isnan(active)]])
        blind.sort()
        dark = np.append(blind, np.inf)[np.searchsorted(blind, time, side="right")]
        until = time + policy.horizon
        sure = (until <= time[-1]) & (dark > until)
        found[rows] = np.where(following <= until, 0, np.where(sure, 1, -1))
    return found


def figures(history: History, idle: Flags, follows: NDArray[np.int8], *, policy: IdlePolicy | None = None) -> Figures:
    """Judge idle verdicts (rows) of any rule by what followed."""
    policy = policy or IdlePolicy()
    held = spans(history)
    owner = np.repeat(np.arange(len(history.gpus)), np.diff(history.start))
    wrong = idle & (follows == 0)
    with np.errstate(invalid="ignore"):
        on_busy = idle & (history.activity > policy.idle_utilization)
    return Figures(
        right=int((idle & (follows == 1)).sum()),
        wrong=int(wrong.sum()),
        missed=int((~idle & (follows == 1)).sum()),
        passed=int((~idle & (follows == 0)).sum()),
        unjudged=int((follows < 0).sum()),
        on_busy=int(on_busy.sum()),
        gpus_wrong=len(np.unique(owner[wrong])),
        freed_hours=float(held[idle & (follows == 1)].sum()),
        wrong_hours=float(held[wrong].sum()),
        idle_hours=float(held[follows == 1].sum()),
    )


def _longest_step(steps: Floats) -> float:
    """Longest time between two samples of a GPU that is no hole, as the verdict has it."""
    return max(120.0, 2.05 * float(np.median(steps))) if len(steps) else 120.0


def _latest(
    history: History,
    memory: IdleMemory,
    columns: NDArray[np.intp],
    decisions: Decisions,
    idle: Floats,
    gpu: int,
) -> Latest:
    rows = history.rows(gpu)
    last = rows.stop - 1
    return Latest(
        gpu=history.gpus[gpu],
        state=STATES[int(decisions.state[last])],
        confidence=float(decisions.confidence[last]),
        sight=Sight(int(decisions.sight[last])),
        judged=memory.judge(columns[gpu : gpu + 1]),
        samples=rows.stop - rows.start,
        first_s=float(history.time[rows.start]),
        last_s=float(history.time[last]),
        idle_hours=float(idle[rows].sum()),
    )
