"""What limits a service: the decision table over queue, KV cache, batch limit, preemptions and GPU.

KV usage alone misses a full batch, and a queue alone cannot say which knob limits; the pair decides (measured on real
engines, see the recordings). A value that the table needs and that is not known makes the verdict `Unknown`, with the
value named: a verdict by elimination of the unmeasured would send people to the wrong knob.

| waits | KV cache | batch | preempts | verdict |
|---|---|---|---|---|
| yes | below 0.9 | at its limit | no | Batch |
| yes | at 0.9 or more, or | any | yes | KVCache |
| yes | below 0.9 | below its limit | no | Queue (deferred, uneven, or blocked) |
| no | below 0.9 | any | no | Compute where latency misses its objective and GPUs are busy, Idle, else None |

NVML's utilisation is near 1 for any active decode, so a busy GPU is weak evidence and `Compute` is never sure. It
judges one window: whether a condition lasts is for whoever compares rounds.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Evidence, Finding, FindingType
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Ratio, Seconds

KV_FULL: Final = 0.9
"""KV usage from which requests are kept out or preempted."""
AT_LIMIT: Final = 0.95
"""Share of the batch limit that counts as reached."""
GPU_BUSY: Final = 0.8
QUEUE_SHARE: Final = 0.2
"""Share of pages with waiting requests from which a queue counts, even when it is empty at this moment."""
IDLE_SPAN: Final = Seconds(300.0)
"""A service is not called idle on less."""
EVEN: Final = 0.6
"""Mean batch fill below which a full replica beside a queue means uneven routing."""
PASSING_SHARE: Final = 0.05
"""Fewer waiting requests than this share of the running ones are just being taken in."""
PLATEAU: Final = 0.85
"""Where no limit is known: running requests this close to their maximum, with a queue, are taken for the limit."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """The next best class, and what would have to be true for it."""

    bottleneck: Bottleneck
    message: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict, and what it rests on."""

    bottleneck: Bottleneck
    confidence: Ratio
    reason: str
    """CamelCase reason code."""
    message: str
    evidence: tuple[Evidence, ...]
    batch_limit: Value
    """Of one replica: from the settings, else inferred from the plateau, else not known."""
    batch_limit_source: str
    """One of "argument", "page", "inferred", or empty."""
    alternative: Alternative | None = None

    def finding(self) -> Finding:
        """Return the verdict as a finding; also for None and Unknown, whose reason is worth showing."""
        return Finding(FindingType.BOTTLENECK, self.reason, self.message, self.confidence, self.evidence)


def batch_ratio(signals: ServiceSignals, diagnosis: Diagnosis) -> Value:
    """Return how full the batches of the reporting replicas are now."""
    limit = diagnosis.batch_limit
    if isinstance(limit, Unknown):
        return limit
    if isinstance(signals.running, Unknown):
        return signals.running
    return min(1.0, signals.running / (limit * max(signals.replicas_reporting, 1)))


def diagnose(
    signals: ServiceSignals,
    settings: EngineSettings,
    objectives: Objectives,
    *,
    surroundings: Surroundings,
    quiet: Seconds = Seconds(0.0),
    idle_span: Seconds = IDLE_SPAN,
) -> Diagnosis:
    """Judge one window of a service.

    Args:
        signals: of the window.
        settings: of its engines.
        objectives: what the service promises.
        surroundings: what was measured around its engines.
        quiet: for how long its history shows no work at all, where that reaches further back than the window.
        idle_span: shortest span without work that counts as idle.
    """
    table = _Table(signals, settings, objectives, surroundings, max(quiet, signals.window), idle_span)
    return table.blocked() or (table.with_queue() if table.queues() else table.without_queue())


@dataclass(frozen=True)
class _Table:
    signals: ServiceSignals
    settings: EngineSettings
    objectives: Objectives
    surroundings: Surroundings
    quiet: Seconds
    idle_span: Seconds

    def blocked(self) -> Diagnosis | None:
        """Return why nothing can be said at all."""
        signals = self.signals
        if signals.replicas_expected > 0 and signals.replicas_reporting == 0:
            return self._unknown("NoPages", "No replica serves a metrics page that can be read.")
        if signals.replicas_expected == 0 and signals.replicas_reporting == 0:
            return self._unknown("NoReplicas", "The service has no replicas.")
        if signals.replicas_reporting * 2 < signals.replicas_expected:
            return self._unknown(
                "TooFewReplicasReport",
                f"Only {signals.replicas_reporting} of {signals.replicas_expected} replicas serve a fresh page.",
            )
        if signals.window <= 0.0:
            return self._unknown("TooFewPages", "One page says what is, not what lasts; more pages will come.")
        for name, value in (("waiting", signals.waiting), ("running", signals.running)):
            if isinstance(value, Unknown):
                return self._unknown("QueueUnknown", f"The number of {name} requests is {value}.")
        return None

    def queues(self) -> bool:
        """Tell whether requests wait, now or for a good part of the window, or were preempted."""
        signals = self.signals
        if _above(signals.preemption_rate, 0.0):
            return True
        # A request or two that a busy engine takes in with its next step are no queue.
        if _number(signals.waiting) >= max(1.0, PASSING_SHARE * _number(signals.running)):
            return True
        return _at_least(signals.waiting_share, QUEUE_SHARE) and not self._drained()

    def _drained(self) -> bool:
        """Tell whether the window's queue is gone: what runs now leaves batches and KV cache well below limits."""
        signals = self.signals
        limit, _ = self._limit()
        if isinstance(limit, Unknown) or _at_least(signals.kv_cache_usage, KV_FULL):
            return False
        return _number(signals.running) / max(signals.replicas_reporting, 1) < limit * EVEN

    def with_queue(self) -> Diagnosis:
        """Say what keeps requests waiting."""
        signals = self.signals
        limit, source = self._limit()
        full = signals.kv_cache_usage_max
        if _above(signals.preemption_rate, 0.0) or _at_least(full, KV_FULL):
            return self._kv_cache()
        if isinstance(full, Unknown):
            return self._unknown("KVCacheUnknown", f"Requests wait, and whether the KV cache is full is {full}.")
        if self._deferred():
            return self._queue("Deferred", "held back by LoRA budget, KV transfer or grammar, not by capacity", 0.8)
        highest = signals.running_per_replica_max
        if isinstance(limit, Unknown) or isinstance(highest, Unknown):
            return self._unknown(
                "BatchLimitUnknown",
                "Requests wait while the KV cache has room, and the batch limit is not known; "
                "name it in the engine's arguments.",
            )
        if highest < limit * AT_LIMIT:
            return self._queue(
                "Blocked", "although batch and KV cache have room (host CPU, step tokens, admission)", 0.6
            )
        mean = _number(signals.running) / max(signals.replicas_reporting, 1) / limit
        if mean < EVEN and signals.replicas_reporting > 1:
            return self._queue("UnevenLoad", f"at a full replica while batches are {mean:.0%} full on average", 0.6)
        sure = {"argument": 0.9, "page": 0.9}.get(source, 0.65)
        if _at_least(self.surroundings.gpu_utilization, 0.9):
            sure -= 0.1
        inferred = " (inferred from where running requests level off)" if source == "inferred" else ""
        return self._verdict(
            Bottleneck.BATCH,
            sure,
            "BatchLimitReached",
            f"{_print(signals.waiting)} requests wait while {_print(highest)} run, at the batch limit of {limit:g}"
            f"{inferred}; the KV cache is at most {full:.0%} full.",
        )

    def without_queue(self) -> Diagnosis:
        """Say whether work is served within the objectives, and whether there is any."""
        signals = self.signals
        if _zero(signals.running_max) and _zero(signals.generation_token_rate) and _zero(signals.busy_share):
            return self._no_work()
        missed = self._missed()
        busy = self.surroundings.gpu_utilization
        if missed and isinstance(busy, Unknown):
            return self._unknown(
                "GPUActivityUnknown",
                f"{missed} without a queue, and whether GPUs are busy is {busy}.",
            )
        if missed and _at_least(busy, GPU_BUSY):
            return self._verdict(
                Bottleneck.COMPUTE,
                0.6,
                "LatencyMissed",
                f"{missed} without a queue while the GPUs are {_print_share(busy)} busy.",
            )
        if missed:
            return self._unknown(
                "LatencyUnexplained",
                f"{missed}, yet there is no queue and the GPUs are only {_print_share(busy)} busy: "
                "look at the host's CPU and the network.",
            )
        if _at_least(signals.kv_cache_usage_max, KV_FULL):
            return self._verdict(
                Bottleneck.HEALTHY,
                0.6,
                "ServedNearKVLimit",
                f"No request waits, but the KV cache was {_print_share(signals.kv_cache_usage_max)} full.",
            )
        first = signals.time_to_first_token_p95
        if not isinstance(first, Unknown) and first > self.objectives.time_to_first_token_p95:
            message = f"No request waits now; those that did had their first token after up to {first:.2g} s (p95)."
            return self._verdict(Bottleneck.HEALTHY, 0.6, "QueueDrained", message)
        measured = not isinstance(first, Unknown)
        return self._verdict(
            Bottleneck.HEALTHY,
            0.9 if measured else 0.7,
            "WithinObjectives" if measured else "NoQueue",
            "No request waits and latency keeps its objectives." if measured else "No request waits.",
        )

    def _no_work(self) -> Diagnosis:
        if self.quiet < self.idle_span:
            return self._verdict(
                Bottleneck.HEALTHY,
                0.5,
                "NoWorkYet",
                f"No work in the last {self.quiet:.0f} s; that is too short to call the service idle.",
            )
        if self.signals.replicas_reporting < self.signals.replicas_expected:
            return self._unknown("IdleUnsure", "The replicas that report are idle; others do not report.")
        return self._verdict(
            Bottleneck.IDLE, 0.9, "NoWork", f"No request ran or waited in the last {self.quiet / 60:.0f} min."
        )

    def _kv_cache(self) -> Diagnosis:
        signals = self.signals
        preempted = _above(signals.preemption_rate, 0.0)
        full = _at_least(signals.kv_cache_usage_max, KV_FULL)
        waits = _above(signals.waiting, 0.0) or _at_least(signals.waiting_share, QUEUE_SHARE)
        parts = []
        if waits:
            parts.append(f"{_print(signals.waiting)} requests wait")
        if preempted:
            parts.append(f"requests are preempted ({_number(signals.preemption_rate) * 60:.2g} a minute)")
        if not isinstance(signals.kv_cache_usage_max, Unknown):
            parts.append(f"the KV cache was {signals.kv_cache_usage_max:.0%} full")
        sure = 0.95 if preempted and full and waits else 0.85 if full and waits else 0.7
        return self._verdict(
            Bottleneck.KV_CACHE,
            sure,
            "Preemptions" if preempted else "KVCacheFull",
            f"{', '.join(parts)[:1].upper()}{', '.join(parts)[1:]}.",
        )

    def _queue(self, reason: str, why: str, sure: float) -> Diagnosis:
        waiting = _print(self.signals.waiting)
        return self._verdict(Bottleneck.QUEUE, sure, reason, f"{waiting} requests wait {why}.")

    def _deferred(self) -> bool:
        waiting, deferred = self.signals.waiting, self.signals.deferred
        if isinstance(waiting, Unknown) or isinstance(deferred, Unknown):
            return False
        return deferred > 0.0 and deferred >= waiting / 2.0

    def _missed(self) -> str:
        signals, objectives = self.signals, self.objectives
        first, between = signals.time_to_first_token_p95, signals.inter_token_latency_p95
        parts = []
        # The histogram fills when a request leaves the queue, so that a miss outlives the queue that caused it.
        waited = _above(signals.waiting_max, 0.0) or (
            not isinstance(first, Unknown) and _at_least(signals.queue_time_p95, first / 2.0)
        )
        if not waited and not isinstance(first, Unknown) and first > objectives.time_to_first_token_p95:
            parts.append(f"time to first token p95 {first:.2g} s misses {objectives.time_to_first_token_p95:g} s")
        if not isinstance(between, Unknown) and between > objectives.inter_token_latency_p95:
            parts.append(f"inter-token latency p95 {between:.2g} s misses {objectives.inter_token_latency_p95:g} s")
        text = " and ".join(parts)
        return text[:1].upper() + text[1:]

    def _limit(self) -> tuple[Value, str]:
        if not isinstance(self.settings.batch_limit, Unknown):
            return self.settings.batch_limit, self.settings.batch_limit_source or "argument"
        signals = self.signals
        highest = signals.running_per_replica_max
        if isinstance(signals.running, Unknown) or isinstance(highest, Unknown):
            return self.settings.batch_limit, ""
        mean = signals.running / max(signals.replicas_reporting, 1)
        # A plateau is a limit only while more requests would have run: a queue, and a KV cache with room.
        room = not isinstance(signals.kv_cache_usage_max, Unknown) and signals.kv_cache_usage_max < KV_FULL
        if _above(signals.waiting, 0.0) and room and highest > 0.0 and mean >= highest * PLATEAU:
            return highest, "inferred"
        return Unknown(UnknownReason.NOT_MEASURED, "not among the arguments, and running requests do not level off"), ""

    def _unknown(self, reason: str, message: str) -> Diagnosis:
        return self._verdict(Bottleneck.UNKNOWN, 0.0, reason, message)

    def _verdict(self, bottleneck: Bottleneck, sure: float, reason: str, message: str) -> Diagnosis:
        signals = self.signals
        if 0 < signals.replicas_reporting < signals.replicas_expected:
            sure *= signals.replicas_reporting / signals.replicas_expected
        limit, source = self._limit()
        return Diagnosis(
            bottleneck, Ratio(round(sure, 2)), reason, message, self._evidence(limit, source), limit, source
        )

    def _evidence(self, limit: Value, source: str) -> tuple[Evidence, ...]:
        signals, span = self.signals, self.signals.window
        instant = Seconds(0.0)
        return (
            Evidence("requests_waiting", signals.waiting, "", instant, "engine"),
            Evidence("requests_running", signals.running, "", instant, "engine"),
            Evidence("requests_running_per_replica", signals.running_per_replica_max, "", span, "engine", "max"),
            Evidence("batch_limit", limit, "", instant, "derived" if source == "inferred" else "engine"),
            Evidence("kv_cache_usage", signals.kv_cache_usage_max, "ratio", span, "engine", "max"),
            Evidence("preemptions", signals.preemption_rate, "1/s", span, "engine", "rate"),
            Evidence("time_to_first_token", signals.time_to_first_token_p95, "seconds", span, "engine", "p95"),
            Evidence("inter_token_latency", signals.inter_token_latency_p95, "seconds", span, "engine", "p95"),
            Evidence("gpu_utilization", self.surroundings.gpu_utilization, "ratio", span, "agent", "mean"),
        )


def _above(value: Value, bound: float) -> bool:
    return not isinstance(value, Unknown) and value > bound


def _at_least(value: Value, bound: float) -> bool:
    return not isinstance(value, Unknown) and value >= bound


def _zero(value: Value) -> bool:
    return not isinstance(value, Unknown) and value == 0.0


def _number(value: Value) -> float:
    assert not isinstance(value, Unknown)
    return value


def _print(value: Value) -> str:
    return "An unknown number of" if isinstance(value, Unknown) else f"{value:.0f}"


def _print_share(value: Value) -> str:
    return str(value) if isinstance(value, Unknown) else f"{value:.0%}"
