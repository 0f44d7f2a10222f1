"""The arithmetic of a KV cache: how many tokens, requests and bytes, and how much a workload needs.

Formulas are vLLM's own (`vllm/v1/core/kv_cache_utils.py`, measured on 0.32). A running request holds its prompt, less
what it shares with others, and its answer so far: half of it on average, all of it at its end. Models whose attention
is windowed or hybrid hold less a token; what that is, `model_facts.kv_bytes_per_token` knows or refuses.
"""

from dataclasses import dataclass
from math import erfc, floor, sqrt
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals

NORMAL_P99: Final = 2.326
"""Standard deviations from the mean to the 99th percentile of a normal distribution."""
NORMAL_P90: Final = 1.282
"""And to the 90th."""

LEAST_HELD: Final = 0.01
"""Tokens; a request that holds less is none."""


def blocks_in(kv_bytes: float, *, block_size: float, bytes_per_token: float) -> int:
    """Return how many whole blocks of `block_size` tokens fit into the memory of one GPU's cache."""
    if block_size <= 0.0 or bytes_per_token <= 0.0:
        raise ValueError(f"blocks of {block_size:g} tokens of {bytes_per_token:g} bytes")
    return floor(kv_bytes / (block_size * bytes_per_token))


def concurrency(tokens: float, *, context_tokens: float) -> float:
    """Return how many requests of the longest admitted length fit (vLLM's kv_cache_max_concurrency)."""
    if context_tokens <= 0.0:
        raise ValueError(f"a context of {context_tokens:g} tokens")
    return tokens / context_tokens


def usage(used_blocks: float, blocks: float) -> float:
    """Return the usage that vLLM reports: one block is a null block and never used."""
    if blocks <= 1.0:
        raise ValueError(f"a cache of {blocks:g} blocks has none to use")
    return used_blocks / (blocks - 1.0)


def capacity(signals: ServiceSignals, settings: EngineSettings) -> Value:
    """Return the tokens that one replica's cache holds: as measured, else as set."""
    measured = signals.kv_cache_capacity_tokens
    value = settings.kv_cache_capacity_tokens if isinstance(measured, Unknown) else measured
    if not isinstance(value, Unknown) and value <= 0.0:
        return Unknown(UnknownReason.INVALID, "a KV cache of no tokens")
    return value


def held_tokens(signals: ServiceSignals) -> Value:
    """Return the KV tokens that a running request of the measured shape holds on average."""
    prompt, answer = signals.prompt_tokens_mean, signals.generation_tokens_mean
    if isinstance(prompt, Unknown):
        return prompt
    if isinstance(answer, Unknown):
        return answer
    # Unknown hits count as none: the estimate then fits fewer requests, not more.
    hits = 0.0 if isinstance(signals.prefix_hit_ratio, Unknown) else signals.prefix_hit_ratio
    held = prompt * (1.0 - hits) + answer / 2.0
    return held if held >= LEAST_HELD else Unknown(UnknownReason.TOO_FEW_SAMPLES, "requests of no length")


def requests_that_fit(signals: ServiceSignals, settings: EngineSettings) -> Value:
    """Return how many requests of the measured shape one replica's KV cache holds."""
    tokens, held = capacity(signals, settings), held_tokens(signals)
    if isinstance(tokens, Unknown):
        return tokens
    return held if isinstance(held, Unknown) else tokens / held


@dataclass(frozen=True, slots=True)
class Need:
    """The KV tokens that a number of simultaneous requests hold."""

    requests: float
    mean: float
    """On average: no less is useful."""
    p99: float
    """In all but one moment of a hundred, by the spread of the lengths."""
    worst: float
    """Every request as long as the 99th percentile, and at its end."""


def needed(signals: ServiceSignals, requests: float) -> Need | Unknown:
    """Return what one replica needs to hold `requests` of the measured shapes at once.

    Lengths of different requests are independent, so that their sum varies by the root of their number. Prompts and
    answers are taken to be normal up to their 99th percentile, and a request to be anywhere in its answer; where no
    percentile was measured the longest request of the window stands for it.
    """
    held = held_tokens(signals)
    if isinstance(held, Unknown):
        return held
    if requests <= 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no requests to hold")
    spread = spread_of(signals)
    if isinstance(spread, Unknown):
        return spread
    mean = requests * held
    worst = requests * max(spread.longest, held)
    return Need(requests, mean, min(worst, mean + NORMAL_P99 * spread.deviation * sqrt(requests)), worst)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the KV tokens of one running request lie from their mean."""

    deviation: float
    """Standard deviation."""
    longest: float
    """Tokens at the end of a request whose prompt and answer are as long as their 99th percentiles."""


def spread_of(signals: ServiceSignals) -> Spread | Unknown:
    """Return the spread of what one running request holds, from the means and 99th percentiles of the lengths."""
    prompt, answer = signals.prompt_tokens_mean, signals.generation_tokens_mean
    if isinstance(prompt, Unknown):
        return prompt
    if isinstance(answer, Unknown):
        return answer
    longest_prompt, longest_answer = signals.prompt_tokens_p99, signals.generation_tokens_p99
    if isinstance(longest_prompt, Unknown) or isinstance(longest_answer, Unknown):
        if isinstance(signals.request_tokens_highest, Unknown):
            return signals.request_tokens_highest
        longest_prompt, longest_answer = max(0.0, signals.request_tokens_highest - answer), answer
    prompt_spread = max(0.0, longest_prompt - prompt) / NORMAL_P99
    answer_spread = max(0.0, longest_answer - answer) / NORMAL_P99
    # A request is at a random point of its answer: variance of a uniform share of a varying length.
    within = (answer_spread**2 + answer**2 / 4.0) / 3.0
    return Spread(sqrt(prompt_spread**2 + within), longest_prompt + longest_answer)


def fit_mostly(tokens: float, *, held: float, deviation: float) -> float:
    """Return how many requests at once stay within `tokens` in nine moments of ten.

    n requests hold n x held on average, and at their 90th percentile 1.28 deviations of their sum more: the root of
    `n held + 1.28 deviation sqrt(n) = tokens`.
    """
    if held <= 0.0:
        raise ValueError(f"requests that hold {held:g} tokens")
    more = NORMAL_P90 * deviation
    return ((sqrt(more**2 + 4.0 * held * max(0.0, tokens)) - more) / (2.0 * held)) ** 2


@dataclass(frozen=True, slots=True)
class Shortage:
    """The share of time in which requests at once want more tokens than there are."""

    expected: float
    """By the tail of a normal sum."""
    upper: float
    """By Cantelli's inequality, whatever the distribution of the lengths: `1 / (1 + z^2)`."""


def shortage(tokens: float, *, requests: float, held: float, deviation: float) -> Shortage:
    """Return how often `requests` at once want more than `tokens`."""
    room, spread = tokens - requests * held, deviation * sqrt(requests)
    if spread <= 0.0:
        return Shortage(0.0, 0.0) if room >= 0.0 else Shortage(1.0, 1.0)
    away = room / spread
    return Shortage(0.5 * erfc(away / sqrt(2.0)), 1.0 / (1.0 + away**2) if away > 0.0 else 1.0)


def sized(size: float) -> str:
    """Write a number of bytes in the unit that fits it."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 0.995 * 2.0**power:
            return (
                f"{size / 2.0**power:,.3g} {unit}" if size < 1000.0 * 2.0**power else f"{size / 2.0**power:,.0f} {unit}"
            )
    return f"{size:.0f} bytes"
