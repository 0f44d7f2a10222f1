"""Families of one page: our prefix, and the rule that what is unknown has no series."""

from typing import Literal, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from optiinfra_agent.snapshot import Unknown

PREFIX = "optiinfra_"
Kind: TypeAlias = Literal["gauge", "counter"]


def family(name: str, meaning: str, kind: Kind, labels: tuple[str, ...]) -> GaugeMetricFamily | CounterMetricFamily:
    """Return an empty family."""
    made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    return made(PREFIX + name, meaning, labels=labels)


def single(name: str, meaning: str, value: float) -> Metric:
    """Return a gauge with one series."""
    return GaugeMetricFamily(PREFIX + name, meaning, value=value)


def add(to: GaugeMetricFamily | CounterMetricFamily, labels: tuple[str, ...], value: float | Unknown) -> None:
    """Add a series, unless its value is not known."""
    if not isinstance(value, Unknown):
        to.add_metric(labels, float(value))
