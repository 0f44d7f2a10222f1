"""The adviser that is always there: ranks by urgency, money and confidence, and explains from templates.

Relief comes first: while a bottleneck is live, the candidate that adds capacity goes before any saving. Among the
rest money decides, then confidence. A candidate without a price is not one that saves nothing: it goes after those
that save something and before those that cost something. It needs no key, no network and no clock.
"""

from decimal import Decimal
from typing import Final

from optiinfra.analysis.advice import ActionPlan, Advice, Explanation, PlanStep, Provenance
from optiinfra.analysis.request import InsightCandidate, InsightRequest, NamedNumber
from optiinfra.analysis.vocabulary import NumberName, PlanStepKind, ReasonCode, Statistic, Unit
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType

NAME: Final = "deterministic"

_SMALLEST: Final = 1e-9
"""Numbers below it are shown as 0."""

_QUIET: Final = frozenset({Bottleneck.HEALTHY, Bottleneck.IDLE, Bottleneck.UNKNOWN})
_RELIEF: Final = {
    Bottleneck.QUEUE: frozenset({RecommendationType.REPLICAS}),
    Bottleneck.BATCH: frozenset({RecommendationType.REPLICAS, RecommendationType.BATCH_SIZE}),
    Bottleneck.KV_CACHE: frozenset(
        {RecommendationType.REPLICAS, RecommendationType.KV_CACHE, RecommendationType.QUANTIZATION}
    ),
    Bottleneck.COMPUTE: frozenset({RecommendationType.REPLICAS, RecommendationType.QUANTIZATION}),
}

_REASONS: Final = {
    ReasonCode.QUEUE_DRAIN: "Waiting requests cannot be cleared in time by what runs and starts.",
    ReasonCode.LEARNED: "The rule that did best on this workload's own load asks for this many.",
    ReasonCode.PRIOR: "The load is known for too short a time; what did best elsewhere asks for this many.",
    ReasonCode.COLLAPSE_HELD: "A steady load vanished within the hour; its capacity is kept for its return.",
    ReasonCode.CHANGED_BY_OTHERS: "Somebody else asked for more, which is respected for some minutes.",
    ReasonCode.PAUSED: "Scaling is paused, so that what runs stays.",
    ReasonCode.LOAD_UNKNOWN: "The load is not known, so that nothing is given back.",
    ReasonCode.HOLD: "Less would do now, but giving back is not shown to be safe.",
    ReasonCode.MIX: "The cheapest mix of the service's variants asks for this many here.",
    ReasonCode.CHEAPEST_THAT_HELD: "The cheapest target of a plain HPA that held the objective on the last load.",
    ReasonCode.PEAKS: "Less would do on average, and the peaks need this many.",
    ReasonCode.NO_REQUESTS: "Nothing was asked of the last replica for long enough, and zero is allowed.",
    ReasonCode.ASLEEP: "No replica runs, and whoever sees the queue asks for the first one.",
    ReasonCode.WAKING: "The first replica after zero starts.",
    ReasonCode.AT_MINIMUM: "The least that is allowed is enough.",
    ReasonCode.AT_MAXIMUM: "More is needed than is allowed.",
    ReasonCode.IDLE_GPU: "GPUs are held and did nothing for the whole window.",
    ReasonCode.EMPTYABLE_NODE: "The pods of a node fit on the others.",
    ReasonCode.OVER_REQUESTED: "More is requested than was used.",
    ReasonCode.UNDER_REQUESTED: "Less is requested than is used.",
    ReasonCode.REQUEST_MISSING: "Nothing is requested, so the scheduler counts on nothing.",
    ReasonCode.MODEL_SERVER_MEMORY: "The memory of a model server is judged by its daily peaks.",
    ReasonCode.OUT_OF_MEMORY: "Containers were killed for memory.",
    ReasonCode.LIMIT_TOO_LOW: "Memory use comes near the limit, and a limit that is hit kills.",
    ReasonCode.SMALLER_GPU_SHARE: "The workload uses a part of its GPU, and a smaller profile has all that it needs.",
    ReasonCode.SHARE_GPU: "The workload uses a part of its GPU, and others could use the rest.",
    ReasonCode.FEWER_GPUS: "The engine splits its model over fewer GPUs than its pod asks for.",
    ReasonCode.RAISE_BATCH_LIMIT: "The batch is full while the KV cache has room.",
    ReasonCode.RAISE_BATCH_LIMIT_TO_LEARN: "The batch is full, and a small step would tell what a request in it costs.",
    ReasonCode.LOWER_BATCH_LIMIT: "Tokens come too slowly, and a smaller batch makes them faster.",
    ReasonCode.LOWER_BATCH_LIMIT_TO_LEARN: "Tokens come too slowly, and a small step down would tell what one costs.",
    ReasonCode.QUANTISE_FOR_LATENCY: "Tokens come too slowly, and smaller weights are read faster.",
    ReasonCode.QUANTISE_FOR_PREFILL: "Prompts take the time, and 8-bit arithmetic is faster.",
    ReasonCode.QUANTISE_FOR_KV_CACHE: "Smaller weights leave room for a larger KV cache.",
    ReasonCode.QUANTISE_FOR_FEWER_REPLICAS: "Smaller weights let fewer replicas serve the same load.",
    ReasonCode.QUANTISE_FOR_FEWER_GPUS: "Smaller weights fit on fewer GPUs.",
    ReasonCode.ENABLE_CHUNKED_PREFILL: "Long prompts hold up the tokens of others.",
    ReasonCode.LOWER_STEP_TOKENS: "Prompts take so much of a step that tokens come too slowly.",
    ReasonCode.RAISE_STEP_TOKENS: "Prompts wait for room in the steps.",
    ReasonCode.QUANTISE_WEIGHTS: "A step mostly reads weights, and smaller weights are read faster.",
    ReasonCode.QUANTISE_KV_CACHE: "Smaller keys and values leave room for more requests.",
    ReasonCode.SPARE_PREEMPTIONS: "More requests are admitted than the KV cache holds, so some are computed again.",
    ReasonCode.OFFLOAD_PREFIXES: "Prefixes that are asked for again are pushed out of the KV cache.",
    ReasonCode.SHORTEN_CONTEXT: "No request came near the longest context that room is kept for.",
    ReasonCode.LMCACHE_USELESS: "LMCache hardly answers anything and still costs memory.",
    ReasonCode.RAISE_KV_BLOCKS: "The KV cache was set by hand to fewer blocks than the requests need.",
    ReasonCode.RAISE_KV_MEMORY: "The KV cache was set by hand to less memory than the requests need.",
    ReasonCode.RAISE_MEMORY_SHARE: "The engine may take more of the GPU's memory for its KV cache.",
    ReasonCode.SPLIT_OVER_GPUS: "Weights take most of the GPU's memory and leave little room for the KV cache.",
    ReasonCode.ENABLE_PREFIX_CACHING: "Common beginnings of prompts are computed and kept more than once.",
    ReasonCode.LMCACHE_ENLARGE: "LMCache is full and evicts what has not lived long.",
    ReasonCode.LMCACHE_CHUNK_UNALIGNED: "LMCache's chunks do not end where the engine's blocks end.",
    ReasonCode.LMCACHE_CHUNK_TOO_LONG: "LMCache's chunks are longer than most prompts.",
    ReasonCode.LMCACHE_POLICY: "LMCache evicts what conversations come back to.",
    ReasonCode.LMCACHE_REMOTE_SLOW: "Fetching from the remote store takes longer than computing again.",
    ReasonCode.UNLISTED: "The analysis proposes a change; see its evidence.",
}

_PROPOSALS: Final = {
    RecommendationType.REPLICAS: "Change the number of replicas",
    RecommendationType.HPA_TARGET: "Change the target of the scaler",
    RecommendationType.RESOURCES: "Change the container's requests",
    RecommendationType.KV_CACHE: "Change the KV-cache settings",
    RecommendationType.BATCH_SIZE: "Change the batch limit",
    RecommendationType.QUANTIZATION: "Change the quantization",
    RecommendationType.CONSOLIDATION: "Empty a node",
    RecommendationType.IDLE_GPU: "Give the GPUs back",
    RecommendationType.GPU_SHARE: "Ask for a smaller share of a GPU",
}

STEP_TEXTS: Final = {
    PlanStepKind.REVIEW_EVIDENCE: "Read the evidence of the recommendation.",
    PlanStepKind.TEST_OUTSIDE_PRODUCTION: "Try the setting on a copy of the service first.",
    PlanStepKind.WAIT_FOR_QUIET_HOURS: "Wait for the maintenance window or a quiet hour.",
    PlanStepKind.APPROVE: "Approve the recommendation.",
    PlanStepKind.APPLY_CHANGE: "Apply the change.",
    PlanStepKind.WATCH_LATENCY: "Watch time to first token and inter-token latency.",
    PlanStepKind.WATCH_QUEUE: "Watch the waiting requests.",
    PlanStepKind.WATCH_KV_CACHE: "Watch KV-cache usage and preemptions.",
    PlanStepKind.WATCH_GPU: "Watch GPU activity.",
    PlanStepKind.ROLL_BACK_IF_WORSE: "Go back if the objectives are missed.",
    PlanStepKind.MEASURE_AGAIN: "Compare with the measured values afterwards.",
}

_WATCHED: Final = {
    RecommendationType.REPLICAS: PlanStepKind.WATCH_QUEUE,
    RecommendationType.HPA_TARGET: PlanStepKind.WATCH_QUEUE,
    RecommendationType.RESOURCES: PlanStepKind.WATCH_LATENCY,
    RecommendationType.KV_CACHE: PlanStepKind.WATCH_KV_CACHE,
    RecommendationType.BATCH_SIZE: PlanStepKind.WATCH_LATENCY,
    RecommendationType.QUANTIZATION: PlanStepKind.WATCH_LATENCY,
    RecommendationType.CONSOLIDATION: PlanStepKind.WATCH_QUEUE,
    RecommendationType.IDLE_GPU: PlanStepKind.WATCH_GPU,
    RecommendationType.GPU_SHARE: PlanStepKind.WATCH_LATENCY,
}

_ENGINE_SETTINGS: Final = frozenset(
    {RecommendationType.KV_CACHE, RecommendationType.BATCH_SIZE, RecommendationType.QUANTIZATION}
)


def rank(candidates: tuple[InsightCandidate, ...], *, bottleneck: Bottleneck) -> tuple[str, ...]:
    """Return the candidates' ids, most worthwhile first. Equal ones keep the order in which they were given."""
    return tuple(candidate.id for candidate in sorted(candidates, key=lambda one: _sort_key(one, bottleneck)))


def _sort_key(candidate: InsightCandidate, bottleneck: Bottleneck) -> tuple[bool, float, float]:
    money = 0.0 if candidate.savings_per_month is None else candidate.savings_per_month
    return (not relieves(candidate, bottleneck), -money, -candidate.confidence)


def relieves(candidate: InsightCandidate, bottleneck: Bottleneck) -> bool:
    """Tell whether the candidate works against the bottleneck that is live now."""
    if bottleneck in _QUIET or candidate.direction is Direction.SCALE_DOWN:
        return False
    return candidate.type in _RELIEF.get(bottleneck, frozenset())


def describe(number: NamedNumber) -> str:
    """Return a number as people read it, with at most three significant digits."""
    unit = "" if number.unit is Unit.COUNT else f" {number.unit}"
    statistic = "" if number.statistic is Statistic.LAST else f" ({number.statistic})"
    return f"{number.name.replace('_', ' ')} {shown(number.value)}{unit}{statistic}"


def shown(value: float) -> str:
    """Return a number with at most three significant digits, never in scientific notation."""
    if abs(value) < _SMALLEST:
        return "0"
    return format(Decimal(f"{value:.3g}"), "f")


def explain(candidate: InsightCandidate) -> Explanation:
    """Explain a candidate from its reason code and its numbers."""
    told = {number.name: number for number in candidate.numbers}
    change = _PROPOSALS[candidate.type]
    current, proposed = told.pop(NumberName.CURRENT, None), told.pop(NumberName.PROPOSED, None)
    if current is not None and proposed is not None:
        change += f" from {shown(current.value)} to {shown(proposed.value)}"
    parts = [_REASONS[candidate.reason], f"{change} (confidence {shown(candidate.confidence)})."]
    evidence = [describe(number) for number in told.values() if number.name not in {NumberName.LOWER, NumberName.UPPER}]
    if evidence:
        parts.append(f"Evidence: {', '.join(evidence[:4])}.")
    if candidate.savings_per_month is not None:
        parts.append(f"Saves {shown(candidate.savings_per_month)} a month.")
    return Explanation(candidate.id, " ".join(parts))


def plan(candidate: InsightCandidate) -> ActionPlan:
    """Return the steps that fit the kind of change."""
    kinds = [PlanStepKind.REVIEW_EVIDENCE]
    if candidate.type in _ENGINE_SETTINGS:
        kinds.append(PlanStepKind.TEST_OUTSIDE_PRODUCTION)
    if candidate.direction is not Direction.SCALE_UP:
        kinds.append(PlanStepKind.WAIT_FOR_QUIET_HOURS)
    kinds += [PlanStepKind.APPLY_CHANGE, _WATCHED[candidate.type], PlanStepKind.ROLL_BACK_IF_WORSE]
    return ActionPlan(candidate.id, tuple(PlanStep(kind, STEP_TEXTS[kind]) for kind in kinds))


def summarize(request: InsightRequest, ranking: tuple[str, ...]) -> str:
    """Say in two or three sentences what stands and what comes first."""
    if not ranking:
        return "Nothing is recommended."
    by_id = {candidate.id: candidate for candidate in request.candidates}
    first = by_id[ranking[0]]
    priced = [one.savings_per_month for one in request.candidates if one.savings_per_month is not None]
    noun = "recommendation stands" if len(ranking) == 1 else "recommendations stand"
    parts = [f"{len(ranking)} {noun}; bottleneck: {request.bottleneck}."]
    parts.append(f"First {first.id}: {_PROPOSALS[first.type].lower()}.")
    if sum(priced) > 0:
        parts.append(f"Together they would save {shown(sum(priced))} a month.")
    return " ".join(parts)


class DeterministicAdviser:
    """Answers every request from the numbers alone."""

    name = NAME

    async def advise(self, request: InsightRequest, /) -> Advice:
        """Answer; never fails."""
        return self.answer(request)

    def answer(self, request: InsightRequest) -> Advice:
        """Answer without an event loop."""
        ranking = rank(request.candidates, bottleneck=request.bottleneck)
        return Advice(
            summary=summarize(request, ranking),
            ranking=ranking,
            explanations=tuple(explain(candidate) for candidate in request.candidates),
            plans=tuple(plan(candidate) for candidate in request.candidates),
            provenance=Provenance(adviser=NAME),
        )

    async def aclose(self) -> None:
        """Hold nothing, let go of nothing."""
