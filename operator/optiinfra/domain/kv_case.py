"""One service's KV cache as advice looks at it: what was given, what follows from it, and how a proposal is worded.

It exists so that every lever is proposed in one form: the exact setting for the engine and its version, what it does
to the cache with an interval, what can go wrong, how to see that it worked, and how to take it back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from optiinfra.domain import manifests
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.engine_flags import EngineFlags, flags_of
from optiinfra.domain.evidence import Direction, Effect, Evidence, Proposal, RecommendationType, Refusal
from optiinfra.domain.kv_capacity import LEAST_HELD, Need, capacity, held_tokens, needed, spread_of
from optiinfra.domain.model_facts import Attention, kv_bytes_per_token
from optiinfra.domain.prefix_reuse import HitForecast
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds

KV: Final = RecommendationType.KV_CACHE
GIB: Final = 2.0**30
INSTANT: Final = Seconds(0.0)
WATCHED: Final = "10 min at a like load"
NOT_SET: Final = "not set"
WORDS: Final = frozenset({NOT_SET, "auto", "off", "removed", "set"})
"""Values that are said of a setting and cannot be written."""
NO_FORECAST: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "no forecast of the hit ratio was made")
WORKING_SET: Final = "working set, from the engine's counters"
NEAR: Final = 0.25
"""How far, as a share, a forecast's capacity may lie from the one it speaks for."""


@dataclass(frozen=True)
class KVCase:
    """What advice on one KV cache rests on."""

    given: AdviceInput
    reuse: tuple[HitForecast, ...] | Unknown = NO_FORECAST
    """Forecasts of the prefix-hit ratio at other capacities."""

    @cached_property
    def flags(self) -> EngineFlags:
        """Names of the engine's settings."""
        return flags_of(self.given.settings.engine, self.given.settings.version)

    @cached_property
    def engine(self) -> str:
        """The engine's name, to begin a sentence with."""
        engine = self.given.settings.engine
        return str(engine) if isinstance(engine, EngineKind) else "The engine"

    @cached_property
    def capacity(self) -> Value:
        """Tokens of one replica's cache."""
        return capacity(self.given.signals, self.given.settings)

    @cached_property
    def held_share(self) -> Value:
        """What of a token a request holds, against one of the longest request: 1 where every layer keeps every token.

        Engines count the capacity of windowed models in tokens of the longest request, of which windowed layers keep
        little; a short request holds more a token than that.
        """
        given = self.given
        match given.model.attention:
            case Attention.HYBRID:
                return Unknown(UnknownReason.UNSUPPORTED, "a hybrid model's state does not grow with its tokens alone")
            case Attention.SLIDING:
                own, longest = self.bytes_per_token, kv_bytes_per_token(given.model, given.settings)
                if isinstance(own, Unknown):
                    return own
                return longest if isinstance(longest, Unknown) else own / longest
            case Attention.UNKNOWN if not isinstance(given.settings.sliding_window, Unknown):
                return Unknown(UnknownReason.UNSUPPORTED, "attention is windowed, and in how many layers is not known")
        return 1.0

    @cached_property
    def held(self) -> Value:
        """Tokens that a running request holds on average."""
        tokens, share = held_tokens(self.given.signals), self.held_share
        if isinstance(tokens, Unknown):
            return tokens
        if isinstance(share, Unknown):
            return share
        held = tokens * share
        return held if held >= LEAST_HELD else Unknown(UnknownReason.INVALID, "requests that hold nothing")

    @cached_property
    def fit(self) -> Value:
        """Requests of the measured shape that one replica holds."""
        if isinstance(self.capacity, Unknown):
            return self.capacity
        return self.held if isinstance(self.held, Unknown) else self.capacity / self.held

    @cached_property
    def held_in_blocks(self) -> Value:
        """Tokens of the blocks that a running request takes on average: its last block is half full."""
        size = self.given.settings.block_size
        return self.held if isinstance(self.held, Unknown) or isinstance(size, Unknown) else self.held + size / 2.0

    @cached_property
    def held_deviation(self) -> Value:
        """Standard deviation of what a running request holds."""
        spread, share = spread_of(self.given.signals), self.held_share
        if isinstance(spread, Unknown):
            return spread
        return share if isinstance(share, Unknown) else spread.deviation * share

    @cached_property
    def bytes_per_token(self) -> Value:
        """Of one GPU's cache, for requests of the measured length."""
        prompt, answer = self.given.signals.prompt_tokens_mean, self.given.signals.generation_tokens_mean
        if isinstance(prompt, Unknown) or isinstance(answer, Unknown):
            return kv_bytes_per_token(self.given.model, self.given.settings)
        return kv_bytes_per_token(self.given.model, self.given.settings, request_tokens=max(1.0, prompt + answer))

    @cached_property
    def demand(self) -> Value:
        """Requests that want to run on one replica now: running and waiting, never more than may run at once."""
        signals = self.given.signals
        if isinstance(signals.running, Unknown):
            return signals.running
        if isinstance(signals.waiting, Unknown):
            return signals.waiting
        wanted = (signals.running + signals.waiting) / max(signals.replicas_reporting, 1)
        limit = self.given.diagnosis.batch_limit
        wanted = wanted if isinstance(limit, Unknown) else min(wanted, limit)
        return max(1.0, wanted)

    @cached_property
    def need(self) -> Need | Unknown:
        """Tokens that the requests of `demand` need."""
        if isinstance(self.demand, Unknown):
            return self.demand
        plain, share = needed(self.given.signals, self.demand), self.held_share
        if isinstance(plain, Unknown):
            return plain
        if isinstance(share, Unknown):
            return share
        return Need(plain.requests, plain.mean * share, plain.p99 * share, plain.worst * share)

    @cached_property
    def overridden(self) -> bool:
        """Whether the number of blocks was given by hand, so that memory settings change nothing."""
        size = self.given.settings.kv_cache_bytes
        return isinstance(size, Unknown) and size.reason is UnknownReason.INVALID

    @cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        """The measured facts that all levers share."""
        signals = self.given.signals
        span = signals.window
        return (
            Evidence("kv_cache_usage", signals.kv_cache_usage_max, "ratio", span, "engine", "max"),
            Evidence("kv_cache_capacity", self.capacity, "tokens", INSTANT, "engine"),
            Evidence(
                "kv_cache_needed",
                self.need if isinstance(self.need, Unknown) else self.need.p99,
                "tokens",
                span,
                "derived",
                "p99",
            ),
            Evidence("prompt_tokens", signals.prompt_tokens_mean, "tokens", span, "engine", "mean"),
            Evidence("generation_tokens", signals.generation_tokens_mean, "tokens", span, "engine", "mean"),
            Evidence("prefix_hit_ratio", signals.prefix_hit_ratio, "ratio", span, "engine"),
            Evidence("preemptions", signals.preemption_rate, "1/s", span, "engine", "rate"),
            Evidence("requests_waiting", signals.waiting, "", INSTANT, "engine"),
        )

    def forecast(self, factor: float) -> HitForecast | None:
        """Return the forecast of the hit ratio at a multiple of the present capacity, if one was made near it."""
        if isinstance(self.reuse, Unknown) or isinstance(self.capacity, Unknown):
            return None
        wanted = self.capacity * factor
        found = min(self.reuse, key=lambda one: abs(one.capacity - wanted), default=None)
        return found if found is not None and abs(found.capacity - wanted) <= NEAR * wanted else None

    def refuse(self, reason: str, message: str) -> Refusal:
        """Say why a lever is not proposed."""
        return Refusal(KV, reason, message)

    def sure(self, share: float) -> Ratio:
        """Return a confidence: that of the verdict, times the lever's own."""
        return Ratio(round(self.given.diagnosis.confidence * share, 2))

    def capacity_effects(self, *, lower: float, expected: float, upper: float, basis: str) -> tuple[Effect, ...]:
        """Return what a change of the capacity by these factors does: to tokens, requests that fit, and prefix hits."""
        found, hits = self.forecast(expected), self.given.signals.prefix_hit_ratio
        more: tuple[Effect, ...] = ()
        if found is not None and found.predictable:
            more = (Effect("prefix_hit_ratio", "ratio", hits, found.lower, found.expected, found.upper, WORKING_SET),)
        return (
            _scaled("kv_cache_capacity", "tokens", self.capacity, (lower, expected, upper), basis),
            _scaled(
                "requests_that_fit",
                "",
                self.fit,
                (lower, expected, upper),
                "capacity / (prompt x (1 - hits) + answer / 2)",
            ),
            *more,
        )

    def propose(
        self,
        reason: str,
        message: str,
        *,
        setting: str,
        current: str,
        proposed: str,
        sure: float,
        effects: Sequence[Effect],
        risk: str,
        lower: str = "",
        upper: str = "",
        verification: str = "",
        evidence: Sequence[Evidence] = (),
        by_verdict: bool = True,
        undo: str = "",
    ) -> Proposal:
        """Build a proposal in the common form; confidence is `sure`, times the verdict's where it follows from that."""
        container = self.given.settings.container
        return Proposal(
            type=KV,
            reason=reason,
            message=message,
            setting=setting,
            current=current,
            proposed=proposed,
            lower=lower or proposed,
            upper=upper or proposed,
            direction=Direction.RESIZE,
            confidence=self.sure(sure) if by_verdict else Ratio(sure),
            evidence=(*self.evidence, *evidence),
            effects=tuple(effects),
            risk=risk,
            verification=verification
            or f"kv_cache_capacity rises at the restart; preemptions and requests_waiting fall within {WATCHED}.",
            patch="" if proposed in WORDS else manifests.patch(setting, proposed, container=container),
            undo=undo or manifests.undo(setting, "" if current in WORDS else current, container=container),
        )


def _scaled(signal: str, unit: str, before: Value, factors: tuple[float, float, float], basis: str) -> Effect:
    if isinstance(before, Unknown):
        return Effect(signal, unit, before, before, before, before, basis)
    lower, expected, upper = (before * factor for factor in factors)
    return Effect(signal, unit, before, lower, expected, upper, basis)
