"""The verdict on an action: did it keep what was expected, did it do harm, or can nobody tell.

Harm is a latency that kept its objective before and misses it now by more than a tenth more than it was, and after
taking capacity away also a queue or preemptions that were not there before; and it must be no noise, no load that rose
by itself and nothing that a control saw as well. What only looks worse is Unknown, as is what was not measured: neither
verified nor harm. A rise is judged but never undone for harm: taking capacity away cannot help a service that is late.

Each action is allowed a chance of `FALSE_ALARM` to be called harmful for nothing, over all signals and all looks: half
of it is for the look at the end, half is shared by those before, because every look is another chance to be fooled
(Bonferroni's inequality holds whatever the signals have in common). How often it happens is measured; see docs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Final

from optiinfra.domain.evidence import Direction
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds
from optiinfra.domain.verification.attribution import Disturbance
from optiinfra.domain.verification.control_group import Candidate, Control, NoControl, choose
from optiinfra.domain.verification.expectation import Expectation
from optiinfra.domain.verification.shift import shift
from optiinfra.domain.verification.trail import Block

FALSE_ALARM: Final = 0.03
LEAST_RATIO: Final = 1.1
"""Less worse than this is no harm, however certain it is."""
LEAST_EARLY: Final = 2
"""Windows after the action before anything is said."""
LEAST_WINDOWS: Final = 3
"""Windows after the action before it can be verified."""
QUEUE_GROWTH: Final = 2.0
"""After shrinking the queue may grow to this many times what it was, and by one request a replica, before it counts."""
LEAST_PREEMPTIONS: Final = 0.01
"""Preemptions per second below which the KV cache counts as large enough."""
LEAST_LOAD: Final = 0.5
"""Share of the load before that must come in for an action to be put to the test."""
SHARED: Final = "SharedShift"
"""Reason code of what a control saw as well."""
WOKEN: Final = "NeededAgain"
"""Reason code of a last replica that went and was needed again within its verify window."""
_SIGNALS: Final = 5


class Outcome(StrEnum):
    """The four verdicts."""

    VERIFIED = "Verified"
    REGRESSED = "Regressed"
    UNKNOWN = "Unknown"
    TOO_EARLY = "TooEarly"


@dataclass(frozen=True, slots=True)
class Compared:
    """One signal before and after."""

    signal: str
    unit: str
    before: Value
    """Typical value of the windows before."""
    after: Value
    limit: Value
    """What it was expected to stay below."""
    chance: Value
    """That noise alone makes it so much larger."""
    beside: Value
    """Times that it grew in the control; unknown where there is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an action so far."""

    outcome: Outcome
    reason: str
    """CamelCase reason code: "ObjectivesKept", "TimeToFirstToken", "QueueGrew", "LoadRose", "Rollout" ..."""
    message: str
    roll_back: bool = False
    """True when undoing the action is the remedy; never for a rise."""
    compared: tuple[Compared, ...] = ()
    control: str = ""
    """Who served as the control, or "none: " and why."""


@dataclass(frozen=True, slots=True)
class Trialled:
    """Everything that a verdict rests on."""

    direction: Direction
    expectation: Expectation
    before: tuple[Block, ...]
    after: tuple[Block, ...]
    """Windows that lie wholly after the count was reached and ready."""
    settled: bool
    """The count was reached and ready."""
    over: bool
    """The verify window is over: this is the last look."""
    candidates: tuple[Candidate, ...] = ()
    disturbance: Disturbance | None = None
    waits_for: str = ""
    """What it still waits for while it is not settled, for people."""


@dataclass(frozen=True, slots=True)
class _Signal:
    """How one signal is judged."""

    reason: str
    name: str
    unit: str
    attribute: str
    limit: float
    """Upper bound; nan where it follows from what was before."""
    ease: float
    """Added before the logarithm: what is smaller than this is nought for people."""
    rises_too: bool
    """Judged after a rise as well."""


@dataclass(frozen=True, slots=True)
class _Found:
    """One signal as it was judged."""

    signal: _Signal
    told: Compared
    worse: bool
    """It misses now what it kept before, and not by a hair."""
    missed: bool
    """It misses its objective now, whatever it was before."""
    certain: bool
    """Noise is no explanation."""
    shared: bool
    """A control saw the same."""


def judge(given: Trialled) -> Verdict:
    """Judge an action by what was measured until now."""
    control = choose(given.before, given.after, given.candidates)
    named = control.name if isinstance(control, Control) else f"none: {control.reason}"

    def verdict(outcome: Outcome, reason: str, message: str, *, roll_back: bool = False) -> Verdict:
        return Verdict(outcome, reason, message, roll_back, tuple(one.told for one in found), named)

    found: list[_Found] = []
    if given.expectation.to_replicas == 0 and given.settled:
        return verdict(*_of_nothing(given))
    if given.disturbance is not None:
        return verdict(Outcome.UNKNOWN, given.disturbance.reason, given.disturbance.message)
    if not given.settled:
        if given.over:
            return verdict(Outcome.UNKNOWN, "NotReached", f"the count was not reached: {given.waits_for}")
        return verdict(Outcome.TOO_EARLY, "NotReached", given.waits_for)
    if len(given.after) < LEAST_EARLY and not given.over:
        return verdict(Outcome.TOO_EARLY, "TooFewWindows", f"{len(given.after)} windows lie after it")
    found += _compare(given, control)
    harm = next((one for one in found if one.worse and one.certain), None)
    if harm is not None:
        return _harm(given, harm, verdict)
    rises = given.direction is Direction.SCALE_UP
    if not given.over and not (rises and len(given.after) >= LEAST_WINDOWS):
        return verdict(Outcome.TOO_EARLY, "Watching", f"{len(given.after)} windows lie after it, no harm so far")
    doubt = _doubt(given, found)
    if doubt is not None:
        return verdict(Outcome.UNKNOWN, *doubt)
    names = ", ".join(one.signal.name for one in found if not isinstance(one.told.after, Unknown))
    text = f"{given.after[-1].replicas} replicas keep what was expected in {len(given.after)} windows: {names}"
    return verdict(Outcome.VERIFIED, "ObjectivesKept", text)


def _of_nothing(given: Trialled) -> tuple[Outcome, str, str]:
    """Judge a workload that went to no replica at all: there is nothing to measure but whether it was missed."""
    if given.disturbance is not None:
        text = "somebody asked for a replica within the verify window: whoever waited for it waited for a cold start"
        return Outcome.REGRESSED, WOKEN, text
    if not given.over:
        return Outcome.TOO_EARLY, "Watching", "no replica runs, and nobody has asked for one so far"
    return Outcome.VERIFIED, "NotMissed", "no replica ran for the whole verify window, and nobody asked for one"


def _harm(given: Trialled, harm: _Found, verdict: Callable[..., Verdict]) -> Verdict:
    """Word harm, unless it has another explanation."""
    told = harm.told
    text = f"{told.signal} is {_word(told.after)}{told.unit and ' s'}, {_word(told.before)} before; "
    text += f"expected at most {_word(told.limit)}; noise alone does this in {_word(told.chance)} of cases"
    load = _load_rose(given)
    if load is not None:
        return verdict(Outcome.UNKNOWN, *load)
    if harm.shared:
        growth = f"{told.signal} grew {_word(told.beside)} times in the control as well"
        return verdict(Outcome.UNKNOWN, SHARED, f"{growth}: this was not the action's doing")
    return verdict(Outcome.REGRESSED, harm.signal.reason, text, roll_back=given.direction is not Direction.SCALE_UP)


def _word(value: Value) -> str:
    return str(value) if isinstance(value, Unknown) else f"{value:.3g}"


def _load_rose(given: Trialled) -> tuple[str, str] | None:
    """Return why the load explains what is seen, or that nobody knows whether it does."""
    upper = given.expectation.demand_upper
    loads = [load for block in given.after if not isinstance(load := block.demand, Unknown)]
    if isinstance(upper, Unknown) or not loads:
        return "LoadNotKnown", "what came in is not measured: the load may have risen by itself"
    mean = fmean(loads)
    if mean <= upper:
        return None
    return "LoadRose", f"{mean:.3g}/s came in, at most {upper:.3g}/s was expected: the load rose by itself"


def _doubt(given: Trialled, found: Sequence[_Found]) -> tuple[str, str] | None:
    """Return why a quiet end is no proof."""
    if len(given.after) < LEAST_WINDOWS:
        return "TooFewWindows", f"{len(given.after)} windows lie after it, {LEAST_WINDOWS} are needed: see verifyWindow"
    last = given.after[-1]
    if last.reporting < last.replicas:
        return "ReplicasMissing", f"{last.reporting} of {last.replicas} replicas report"
    unsure = next((one for one in found if one.worse), None)
    if unsure is not None:
        return "Unclear", f"{unsure.signal.name} looks worse ({_word(unsure.told.after)}), but no worse than noise may"
    missed = next((one for one in found if one.missed), None)
    if missed is not None:
        return "StillMissed", f"{missed.signal.name} is {_word(missed.told.after)} and missed its objective before too"
    if all(isinstance(one.told.after, Unknown) for one in found):
        return "NoData", "neither latencies nor a queue are measured"
    demand, loads = given.expectation.demand, [block.demand for block in given.after]
    known = [load for load in loads if not isinstance(load, Unknown)]
    falls = given.direction is Direction.SCALE_DOWN
    if falls and known and not isinstance(demand, Unknown) and fmean(known) < LEAST_LOAD * demand:
        return "LoadFell", f"only {100.0 * fmean(known) / demand:.0f} % of the load before came in: not put to the test"
    return None


def _signals(given: Trialled) -> tuple[_Signal, ...]:
    promised: Objectives = given.expectation.objectives
    replicas = float(max(1, given.expectation.to_replicas))

    def latency(reason: str, name: str, attribute: str, limit: Seconds) -> _Signal:
        ease = 0.02 * limit if math.isfinite(limit) else 1e-3
        return _Signal(reason, name, "seconds", attribute, limit, ease, rises_too=True)

    return (
        latency("TimeToFirstToken", "time_to_first_token_p95", "time_to_first_token", promised.time_to_first_token_p95),
        latency(
            "InterTokenLatency", "inter_token_latency_p95", "inter_token_latency", promised.inter_token_latency_p95
        ),
        latency("QueueTime", "queue_time_p95", "queue_time", promised.queue_delay),
        _Signal("QueueGrew", "requests_waiting", "", "waiting", math.nan, replicas, rises_too=False),
        _Signal("Preemptions", "preemptions", "", "preemptions", LEAST_PREEMPTIONS, LEAST_PREEMPTIONS, rises_too=False),
    )


def _compare(given: Trialled, control: Control | NoControl) -> list[_Found]:
    """Judge every signal that applies."""
    rises = given.direction is Direction.SCALE_UP
    looks = (
        max(1.0, given.expectation.verify_window / max(1.0, given.after[-1].span) - LEAST_EARLY) if given.after else 1
    )
    level = FALSE_ALARM / 2.0 / _SIGNALS / (1.0 if given.over else looks)
    return [
        _compared(signal, given, control, level=level) for signal in _signals(given) if signal.rises_too or not rises
    ]


def _known(blocks: Sequence[Block], attribute: str) -> list[float]:
    return [value for block in blocks if not isinstance(value := getattr(block, attribute), Unknown)]


def _compared(signal: _Signal, given: Trialled, control: Control | NoControl, *, level: float) -> _Found:
    before, after = _known(given.before, signal.attribute), _known(given.after, signal.attribute)
    changed = shift([math.log(value + signal.ease) for value in before], [math.log(v + signal.ease) for v in after])
    missing = Unknown(UnknownReason.NOT_MEASURED, "no window has it")
    was: Value = _typical(before, signal.ease) if before else missing
    now: Value = _typical(after, signal.ease) if after else missing
    limit = signal.limit
    if math.isnan(limit):
        base = 0.0 if isinstance(was, Unknown) else was
        limit = max(QUEUE_GROWTH * base, base + signal.ease)
    missed = not isinstance(now, Unknown) and now > limit
    kept = not isinstance(was, Unknown) and was <= limit
    worse = missed and kept and changed is not None and changed.ratio >= LEAST_RATIO
    ratio, shared = _beside(signal, control, level=level)
    told = Compared(
        signal.name,
        signal.unit,
        was,
        now,
        limit if math.isfinite(limit) else Unknown(UnknownReason.NOT_CONFIGURED, "no objective was given"),
        changed.chance if changed is not None else missing,
        ratio,
    )
    certain = changed is not None and changed.chance < level
    # A queue has no objective: what was long before and stays as long is no miss.
    return _Found(signal, told, worse, missed and signal.rises_too, certain, shared and worse)


def _typical(values: Sequence[float], ease: float) -> float:
    """Return the geometric mean, eased."""
    return max(0.0, math.exp(fmean(math.log(value + ease) for value in values)) - ease)


def _beside(signal: _Signal, control: Control | NoControl, *, level: float) -> tuple[Value, bool]:
    """Return how much the signal grew in the control, and whether that is all of what grew in the target."""
    if isinstance(control, NoControl):
        return Unknown(UnknownReason.NOT_MEASURED, "no control"), False

    def logarithms(pairs: Sequence[tuple[Block, Block]]) -> list[tuple[float, float]]:
        values = [(getattr(one, signal.attribute), getattr(other, signal.attribute)) for one, other in pairs]
        return [
            (math.log(one + signal.ease), math.log(other + signal.ease))
            for one, other in values
            if not isinstance(one, Unknown) and not isinstance(other, Unknown)
        ]

    before, after = logarithms(control.before), logarithms(control.after)
    own = shift([other for _, other in before], [other for _, other in after])
    apart = shift([one - other for one, other in before], [one - other for one, other in after])
    if own is None or apart is None:
        return Unknown(UnknownReason.NOT_MEASURED, "the control does not measure it"), False
    return own.ratio, not (apart.chance < level and apart.ratio >= LEAST_RATIO)
