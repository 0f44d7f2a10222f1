"""The text of a metric page as prometheus_client writes it: heads, samples, `_created` gauges, floats.

Written out by hand instead of through a metrics registry, because an engine's numbers live in virtual time and because
the engines' pages have habits that no registry reproduces. Nothing is rounded.
"""

from dataclasses import dataclass

from optiinfra_sim.histogram import Histogram

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class PageTimes:
    """Where an engine's life lies in Unix time."""

    started: float
    """Start of the process, before the model was loaded."""
    serving: float
    """When it began to serve: the moment at which vLLM creates its metrics."""


def number(value: float) -> str:
    """A float as prometheus_client writes it: shortest form, Go's exponent above 1e6."""
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+0{dot - 1}"
    return text


class Page:
    """The lines of a page under construction."""

    def __init__(self, *, engine: str, created: float) -> None:
        self.lines: list[str] = []
        self.engine = engine
        self._created = number(created)

    def head(self, name: str, kind: str, text: str) -> None:
        """The HELP and TYPE lines of a family."""
        self.lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]

    def gauge(self, name: str, text: str, *samples: tuple[str, float]) -> None:
        """A gauge with its samples: (labels, value)."""
        self.head(name, "gauge", text)
        self.samples(name, samples)

    def counter(self, name: str, text: str, *samples: tuple[str, float], created: bool = True) -> None:
        """A counter; ``name`` without its ``_total``."""
        self.head(f"{name}_total", "counter", text)
        self.samples(f"{name}_total", samples)
        if created:
            self._creation(name, text, [labels for labels, _ in samples])

    def summary(self, name: str, text: str, *, labels: str, count: float, total: float) -> None:
        """A summary without quantiles."""
        self.head(name, "summary", text)
        if count:
            self.samples(f"{name}_count", [(labels, count)])
            self.samples(f"{name}_sum", [(labels, total)])
        self._creation(name, text, [labels] if count else [])

    def histogram(self, name: str, text: str, values: Histogram, *, labels: str | None = None) -> None:
        """A histogram; ``labels`` defaults to the engine's."""
        own = self.engine if labels is None else labels
        parts = own.split(",") if own else []
        # Labels are sorted: `le` goes after `engine` or `handler` and before `method` and `model_name`.
        before = [part for part in parts if part < "le"]
        after = [part for part in parts if part >= "le"]
        self.head(name, "histogram", text)
        bounds = [*(number(bound) for bound in values.bounds), "+Inf"]
        for bound, count in zip(bounds, values.cumulative(), strict=True):
            inner = ",".join([*before, f'le="{bound}"', *after])
            self.lines.append(f"{name}_bucket{{{inner}}} {number(count)}")
        self.samples(f"{name}_count", [(own, values.count)])
        self.samples(f"{name}_sum", [(own, values.sum)])
        self._creation(name, text, [own])

    def _creation(self, name: str, text: str, labels: list[str]) -> None:
        if not labels:
            return  # a labelled family without samples has no such gauge either
        self.head(f"{name}_created", "gauge", text)
        for own in labels:
            self.lines.append(f"{name}_created{{{own}}} {self._created}" if own else f"{name}_created {self._created}")

    def samples(self, name: str, samples: tuple[tuple[str, float], ...] | list[tuple[str, float]]) -> None:
        """One line each, labels as they are."""
        for labels, value in samples:
            self.lines.append(f"{name}{{{labels}}} {number(value)}" if labels else f"{name} {number(value)}")
