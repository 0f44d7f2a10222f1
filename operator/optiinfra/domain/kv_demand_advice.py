"""Levers that make requests ask less of the KV cache: fewer at once, shorter ones, and replicas beside it.

A limit is set by what fits nine times in ten, not on average: a real engine that was given the average (nine requests
for 2,080 tokens) still preempted 63 % as often as before, because several long requests met. The numbers come from the
measured shapes, so that a lever is as good as the window is typical; what a window is too short to show is refused.
"""

from math import ceil, floor
from typing import Final

from optiinfra.domain.advice import Advice, because
from optiinfra.domain.evidence import Effect, RecommendationType, Refusal
from optiinfra.domain.kv_capacity import fit_mostly, shortage
from optiinfra.domain.kv_case import WATCHED, KVCase
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds

CONTEXT_ROOM: Final = 1.25
CONTEXT_SPAN: Final = Seconds(300.0)
"""On less, the longest request is not spoken of."""


def fewer_requests(case: KVCase) -> Advice:
    """Admit what fits, so that nothing is preempted and computed again."""
    signals, limit, flags = case.given.signals, case.given.diagnosis.batch_limit, case.flags
    preemptions, held, deviation = signals.preemption_rate, case.held_in_blocks, case.held_deviation
    if isinstance(preemptions, Unknown) or preemptions <= 0.0:
        return case.refuse("NoPreemptions", "A lower batch limit spares preemptions, and there are none.")
    if isinstance(limit, Unknown) or not flags.batch_limit:
        return case.refuse(
            "BatchLimitUnknown",
            f"A lower batch limit would spare preemptions; which one holds is not known: {because(limit)}.",
        )
    for value in (held, deviation, case.capacity):
        if isinstance(value, Unknown):
            text = f"A lower batch limit would spare preemptions; what a request holds is not known: {because(value)}."
            return case.refuse("LengthsUnknown", text)
    assert not isinstance(held, Unknown)
    assert not isinstance(deviation, Unknown)
    assert not isinstance(case.capacity, Unknown)
    proposed = max(1, floor(fit_mostly(case.capacity, held=held, deviation=deviation)))
    highest = signals.running_per_replica_max
    if proposed >= limit:
        return case.refuse("BatchLimitFits", f"{limit:g} requests, the batch limit, mostly fit the KV cache.")
    if not isinstance(highest, Unknown) and proposed >= highest:
        text = f"{proposed} requests mostly fit the KV cache, and never more than {highest:.0f} ran at once."
        return case.refuse("BatchLimitFits", text)
    return _fewer(case, proposed=proposed, limit=limit, preemptions=preemptions, held=held, deviation=deviation)


def _fewer(case: KVCase, *, proposed: int, limit: float, preemptions: float, held: float, deviation: float) -> Advice:
    assert not isinstance(case.capacity, Unknown)
    signals, tokens = case.given.signals, case.capacity
    short = shortage(tokens, requests=proposed, held=held, deviation=deviation)
    usual = signals.running_mean
    least = 1.0 if isinstance(usual, Unknown) else max(1.0, min(usual, proposed))
    risk = "With shorter requests the cache is not used up, and the queue is longer than it had to be."
    if not isinstance(usual, Unknown) and proposed < usual:
        risk = (
            f"{usual:.1f} requests run on average now: where computing them again is cheap, {proposed} at once may "
            f"make fewer tokens a second. {risk}"
        )
    minutely = f"{preemptions * 60.0:,.0f}" if preemptions * 60.0 >= 10.0 else f"{preemptions * 60.0:.2g}"
    return case.propose(
        "SparePreemptions",
        f"Up to {limit:g} requests are admitted, and {tokens:,.0f} tokens hold {tokens / held:.1f} of the measured "
        f"length on average. What does not fit is preempted and computed again, {minutely} times a minute. "
        f"{proposed} at once fit {1.0 - short.expected:.0%} of the time.",
        setting=case.flags.batch_limit,
        current=f"{limit:g}",
        proposed=str(proposed),
        lower=str(max(1, min(proposed, floor(tokens / (held + _rest(case)))))),
        upper=str(max(proposed, floor(tokens / held))),
        sure=0.6,
        effects=(
            Effect(
                "preemptions",
                "1/s",
                preemptions,
                0.0,
                preemptions * short.expected,
                preemptions * short.upper,
                "now x share of time in which the admitted requests want more than there is",
            ),
            Effect(
                "requests_running_per_replica",
                "",
                signals.running_per_replica_max,
                least,
                float(proposed),
                float(proposed),
                "the limit",
            ),
        ),
        risk=risk,
        verification=(
            f"preemptions fall to {preemptions * short.upper:.2g} a second or fewer, and generation_tokens a second "
            f"do not, within {WATCHED}; time_to_first_token may rise for a moment while the queue takes over."
        ),
    )


def _rest(case: KVCase) -> float:
    """Return what a request at its end holds beyond the average: the other half of its answer."""
    answer = case.given.signals.generation_tokens_mean
    return 0.0 if isinstance(answer, Unknown) else answer / 2.0


def shorter_context(case: KVCase) -> Advice:
    """Refuse requests that nobody sends, so that the worst case shrinks."""
    signals, settings, flags = case.given.signals, case.given.settings, case.flags
    context, longest = settings.context_tokens, signals.request_tokens_highest
    if isinstance(context, Unknown) or not flags.context:
        return case.refuse(
            "ContextUnknown", f"The longest context that the engine admits is not known: {because(context)}."
        )
    if signals.window < CONTEXT_SPAN:
        text = f"{signals.window:.0f} s of pages do not show how long the longest requests are."
        return case.refuse("WindowTooShort", text)
    if isinstance(longest, Unknown):
        return case.refuse("LengthsUnknown", f"The longest request of the window is not known: {because(longest)}.")
    proposed = ceil(longest * CONTEXT_ROOM / 1024) * 1024
    if proposed * 2 > context:
        text = f"Requests of up to {longest:,.0f} tokens use the context of {context:,.0f} tokens."
        return case.refuse("ContextUsed", text)
    effects, worst = tuple[Effect, ...](), ""
    if not isinstance(case.capacity, Unknown):
        before, after = case.capacity / context, case.capacity / proposed
        worst = f" The KV cache then holds {after:.1f} of the longest, instead of {before:.1f}."
        effects = (Effect("longest_requests_that_fit", "", before, after, after, after, "capacity / context"),)
    return case.propose(
        "ShortenContext",
        f"No request of the last {signals.window / 60:.0f} min was longer than {longest:,.0f} tokens, and "
        f"{context:,.0f} are admitted.{worst} Longer requests would be refused.",
        setting=flags.context,
        current=f"{context:.0f}",
        proposed=str(proposed),
        lower=str(ceil(longest)),
        upper=f"{context:.0f}",
        # The window is short, and the longest request of a day is not in it.
        sure=0.35,
        effects=effects,
        risk="Clients that send longer requests get an error: look at the longest of a week first.",
        verification=f"requests_failed and rejections do not rise; kv_cache_usage stays lower at its peaks, {WATCHED}.",
    )


def replicas(case: KVCase) -> Refusal:
    """Say how many replicas the requests would fill; scaling alone decides their number."""
    signals, objectives, fit = case.given.signals, case.given.objectives, case.fit
    running, waiting = signals.running, signals.waiting
    need = ""
    if not isinstance(fit, Unknown) and not isinstance(running, Unknown) and not isinstance(waiting, Unknown):
        full = ceil((running + waiting) / max(fit, 1e-9))
        need = (
            f" At the measured length {running + waiting:.0f} requests fill {full:d} replica{'s' if full != 1 else ''} "
            f"(to start within {objectives.queue_delay:g} s it may take fewer)."
        )
    return Refusal(
        RecommendationType.REPLICAS, "LeftToScaling", f"More replicas add KV cache; scaling decides their number.{need}"
    )
