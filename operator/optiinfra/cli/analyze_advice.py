"""The advice at the end of a series of recorded pages: what to change, from the last span that was limited.

The span is that of `analyze_series.dominating`, joined into one window, so that request shapes and latencies rest on
all of it. The pace of steps is fitted on every window of the series, as the operator does over time.
"""

from collections.abc import Sequence

from optiinfra.cli.analyze_series import Judged, Series, dominating
from optiinfra.domain import gpu_models, kv_cache, model_table, tuning
from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import PaceHistory, key_of
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds

_NO_GPU = Unknown(UnknownReason.NOT_CONFIGURED, "no page tells the GPU's model; name it with --gpu-model")


def gpu_of(name: str) -> GpuModel | Unknown:
    """Return the facts of a GPU by its name; unknown where it is not named or not in the table."""
    return gpu_models.recognise(name) if name else _NO_GPU


def model_of(name: str, settings: EngineSettings, reading: EngineReading) -> ModelFacts:
    """Return the facts of the served model, by the name given, the engine's argument, or the page's label."""
    return model_table.facts_of(ModelFacts(), (name, settings.model, reading.model))


def advise(
    judged: Sequence[Judged],
    series: Series,
    readings: Sequence[tuple[str, EngineReading]],
    *,
    objectives: Objectives,
    gpu_name: str = "",
    model_name: str = "",
) -> tuple[Advice, ...]:
    """Return what to change, and what was considered and does not help; the same for the same pages.

    Args:
        judged: every moment of the series, in order.
        series: that judged it.
        readings: all pages with their replicas, in order.
        objectives: that the advice has to keep.
        gpu_name: of the GPU, where somebody named it.
        model_name: of the model, where somebody named it.
    """
    span = dominating(judged)
    if span is None:
        return ()
    inside = [(name, one) for name, one in readings if span.first.time <= one.time <= span.last.time]
    pages: dict[str, list[EngineReading]] = {}
    for name, one in inside:
        pages.setdefault(name, []).append(one)
    last = inside[-1][1]
    settings = series.settings(last)
    signals = span.last.signals
    if span.last.time > span.first.time:
        signals = summarise(
            pages,
            now=span.last.time,
            window=Seconds(span.last.time - span.first.time),
            stale_after=series.stale_after,
            replicas_expected=len(pages),
        )
    history, key = PaceHistory(key=key_of(settings)), key_of(settings)
    for moment in judged:
        if moment.time <= span.last.time:
            history.observe(moment.signals, key=key)
    given = AdviceInput(
        signals,
        settings,
        span.last.settled,
        objectives,
        gpu=gpu_of(gpu_name),
        model=model_of(model_name, settings, last),
        pace=history.fit(),
        surroundings=span.last.surroundings,
    )
    return (*kv_cache.advise(given), *tuning.advise(given))
