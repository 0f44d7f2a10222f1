"""Levers that make requests ask less of the KV cache: fewer at once, shorter ones, and replicas beside it.

The numbers are averages over the measured shapes, so that a lever is as good as the window is typical; what a window
is too short to show is refused.
"""

from math import ceil
from typing import Final

from optiinfra.domain.advice import Advice
from optiinfra.domain.evidence import Effect, RecommendationType, Refusal
from optiinfra.domain.kv_case import WATCHED, KVCase
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds

CONTEXT_ROOM: Final = 1.25
CONTEXT_SPAN: Final = Seconds(300.0)
"""On less, the longest request is not spoken of."""


def fewer_requests(case: KVCase) -> Advice:
    """Admit what fits, so that nothing is preempted and computed again."""
    signals, limit, flags = case.given.signals, case.given.diagnosis.batch_limit, case.flags
    preemptions, fit, held = signals.preemption_rate, case.fit, case.held
    if isinstance(preemptions, Unknown) or preemptions <= 0.0:
        return case.refuse("NoPreemptions", "A lower batch limit spares preemptions, and there are none.")
    if isinstance(limit, Unknown) or not flags.batch_limit:
        return case.refuse("BatchLimitUnknown", f"A lower batch limit would spare preemptions; it is {limit}.")
    if isinstance(fit, Unknown) or isinstance(held, Unknown) or isinstance(case.capacity, Unknown):
        return case.refuse("LengthsUnknown", f"A lower batch limit would spare preemptions; request length is {fit}.")
    proposed = max(1, int(fit))
    if proposed >= limit:
        return case.refuse("BatchLimitFits", f"The batch limit of {limit:g} fits the KV cache on average.")
    answer = signals.generation_tokens_mean
    full = held if isinstance(answer, Unknown) else held + answer / 2.0
    highest = signals.running_per_replica_max
    upper = proposed if isinstance(highest, Unknown) else max(proposed, int(highest))
    return case.propose(
        "SparePreemptions",
        f"{case.capacity:,.0f} tokens hold about {fit:.1f} requests of the measured length, and up to {limit:g} are "
        f"admitted: what does not fit is preempted and computed again ({preemptions * 60:.2g} a minute).",
        setting=flags.batch_limit,
        current=f"{limit:g}",
        proposed=str(proposed),
        lower=str(max(1, int(case.capacity / full))),
        upper=str(upper),
        sure=0.6,
        effects=(
            Effect("preemptions", "1/s", preemptions, 0.0, 0.0, preemptions / 2.0, "admitted requests fit on average"),
            Effect("requests_running_per_replica", "", highest, 1.0, float(proposed), float(proposed), "the limit"),
        ),
        risk="At shorter requests the cache is not used up, and the queue is longer than it had to be.",
        verification=(
            f"preemptions fall to none and generation_tokens a second do not within {WATCHED}; "
            "time_to_first_token may rise for a moment while the queue takes over."
        ),
    )


def shorter_context(case: KVCase) -> Advice:
    """Refuse requests that nobody sends, so that the worst case shrinks."""
    signals, settings, flags = case.given.signals, case.given.settings, case.flags
    context, longest = settings.context_tokens, signals.request_tokens_highest
    if isinstance(context, Unknown) or not flags.context:
        return case.refuse("ContextUnknown", f"The longest context that the engine admits is {context}.")
    if signals.window < CONTEXT_SPAN:
        text = f"{signals.window:.0f} s of pages do not show how long the longest requests are."
        return case.refuse("WindowTooShort", text)
    if isinstance(longest, Unknown):
        return case.refuse("LengthsUnknown", f"The longest request of the window is {longest}.")
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
        need = (
            f" At the measured length {running + waiting:.0f} requests fill "
            f"{ceil((running + waiting) / max(fit, 1e-9)):d} replicas (to start within {objectives.queue_delay:g} s "
            "it may take fewer)."
        )
    return Refusal(
        RecommendationType.REPLICAS, "LeftToScaling", f"More replicas add KV cache; scaling decides their number.{need}"
    )
