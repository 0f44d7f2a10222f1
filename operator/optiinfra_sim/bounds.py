"""Bucket bounds of each engine's histograms.

vLLM's are in :mod:`histogram` (a recorded page holds them). SGLang's are those of its ``metrics_collector.py`` (read at
commit 016d8605), TGI's follow ``router/src/server.rs`` (commit 003eaec0): a geometric series for durations, hundredths
of the configured limits for lengths.
"""

from dataclasses import dataclass

from optiinfra_sim import histogram
from optiinfra_sim.settings import EngineKind

SGLANG_FIRST_TOKEN = (
    0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0,
)  # fmt: skip
SGLANG_END_TO_END = (*SGLANG_FIRST_TOKEN, 600.0, 1200.0, 1800.0, 2400.0)
SGLANG_INTER_TOKEN = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1,
    0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0,
)  # fmt: skip
SGLANG_QUEUE = (
    0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    70.0, 80.0, 90.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0, 1000.0, 1200.0, 1400.0, 1600.0,
    1800.0, 2000.0, 2500.0, 3000.0,
)  # fmt: skip
SGLANG_TOKENS = (
    100.0, 300.0, 500.0, 700.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0, 7000.0, 8000.0, 9000.0,
    10000.0, 12500.0, 15000.0, 17500.0, 20000.0, 22500.0, 25000.0, 27500.0, 30000.0, 35000.0, 40000.0, 60000.0,
    80000.0, 100000.0, 200000.0, 300000.0, 400000.0, 600000.0, 800000.0, 1000000.0, 1100000.0,
)  # fmt: skip
TGI_BATCH = tuple(float(size) for size in range(1, 1025))


def _tgi_durations() -> tuple[float, ...]:
    bounds = []
    value = 0.0001
    for _ in range(35):
        value *= 1.5
        bounds.append(value)
    return tuple(bounds)


def _hundredths(limit: int) -> tuple[float, ...]:
    return tuple(limit / 100.0 * float(step) for step in range(1, 101))


TGI_DURATION = _tgi_durations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of the histograms that all engines have in one form or another."""

    first_token: tuple[float, ...]
    inter_token: tuple[float, ...]
    """Gaps between tokens; in TGI the mean gap of a request."""
    end_to_end: tuple[float, ...]
    queue: tuple[float, ...]
    phase: tuple[float, ...]
    """Other parts of a request's life."""
    step: tuple[float, ...]
    prompt: tuple[float, ...]
    generated: tuple[float, ...]


def bounds(kind: EngineKind, *, max_model_len: int) -> Bounds:
    """The bounds of an engine whose context holds ``max_model_len`` tokens."""
    if kind is EngineKind.SGLANG:
        return Bounds(
            first_token=SGLANG_FIRST_TOKEN,
            inter_token=SGLANG_INTER_TOKEN,
            end_to_end=SGLANG_END_TO_END,
            queue=SGLANG_QUEUE,
            phase=SGLANG_QUEUE,
            step=SGLANG_INTER_TOKEN,
            prompt=SGLANG_TOKENS,
            generated=SGLANG_TOKENS,
        )
    if kind is EngineKind.TGI:
        return Bounds(
            first_token=TGI_DURATION,
            inter_token=TGI_DURATION,
            end_to_end=TGI_DURATION,
            queue=TGI_DURATION,
            phase=TGI_DURATION,
            step=TGI_DURATION,
            prompt=_hundredths(max_model_len - 1),
            generated=_hundredths(max_model_len),
        )
    tokens = histogram.token_bounds(max_model_len)
    return Bounds(
        first_token=histogram.TIME_TO_FIRST_TOKEN,
        inter_token=histogram.INTER_TOKEN_LATENCY,
        end_to_end=histogram.REQUEST_PHASE,
        queue=histogram.REQUEST_PHASE,
        phase=histogram.REQUEST_PHASE,
        step=histogram.INTER_TOKEN_LATENCY,
        prompt=tokens,
        generated=tokens,
    )
