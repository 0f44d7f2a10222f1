"""As much PromQL as questions of tests need: aggregations by or without labels, functions over a window, selectors.

A series is a function of time and stands for its own rate and average, so that what comes back is known in advance.
What a query touches is counted, as a server's statistics do.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SCRAPE_S = 30.0
_AGGREGATION = re.compile(r"(sum|max|min|count)\s*(?:(by|without)\s*\(([^()]*)\)\s*)?\((.*)\)", re.DOTALL)
_FUNCTION = re.compile(r"([a-z_]+)\((.*)\[(\d+)s\]\)", re.DOTALL)
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?(?:\{(.*)\})?", re.DOTALL)
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*,?')

Labels = tuple[tuple[str, str], ...]
Fleet = Mapping[Labels, Callable[[float], float | None]]
"""Labels, `__name__` among them, -> value at a time."""


class NoQueryError(Exception):
    """A parse error."""


@dataclass
class Evaluator:
    fleet: Fleet
    samples: int = 0
    matched: int = 0

    def at(self, query: str, time: float) -> dict[Labels, float]:
        query = query.strip()
        if query == "vector(1)":
            return {(): 1.0}
        found = _AGGREGATION.fullmatch(query)
        if found:
            operator, kind, labels, inner = found.groups()
            return self._aggregated(operator, kind, (labels or "").split(","), self.at(inner, time))
        found = _FUNCTION.fullmatch(query)
        if found:
            name, inner, window = found.groups()
            values = self._selected(inner, time, float(window) / SCRAPE_S)
            if name == "count_over_time":
                values = dict.fromkeys(values, float(window) / SCRAPE_S)
            return {tuple(pair for pair in labels if pair[0] != "__name__"): value for labels, value in values.items()}
        return self._selected(query, time, 1.0)

    def _aggregated(self, operator, kind, names, values):
        names = {name.strip() for name in names if name.strip()}
        groups: dict[Labels, list[float]] = {}
        for labels, value in values.items():
            kept = (
                tuple(pair for pair in labels if pair[0] not in names and pair[0] != "__name__")
                if kind == "without"
                else tuple(pair for pair in labels if pair[0] in names)
            )
            groups.setdefault(kept, []).append(value)
        does = {"sum": sum, "max": max, "min": min, "count": lambda listed: float(len(listed))}[operator]
        return {labels: does(listed) for labels, listed in groups.items()}

    def _selected(self, text: str, time: float, a_step: float) -> dict[Labels, float]:
        found = _SELECTOR.fullmatch(text)
        if not found or not text:
            raise NoQueryError(f"1:1: parse error: unexpected {text[:20]!r}")
        name, inner = found.groups()
        tests = matchers(inner or "")
        if name:
            tests.append(lambda labels: labels.get("__name__") == name)
        chosen = {}
        for labels, value in self.fleet.items():
            given = dict(labels)
            if all(test(given) for test in tests):
                self.matched += 1
                number = value(time)
                if number is not None:
                    self.samples += round(a_step)
                    chosen[labels] = number
        return chosen


def matchers(inner: str) -> list[Callable[[dict[str, str]], bool]]:
    tests = []
    place = 0
    while place < len(inner):
        found = _MATCHER.match(inner, place)
        if not found:
            raise NoQueryError(f"1:{place}: parse error: unexpected {inner[place : place + 10]!r}")
        tests.append(_test(*found.groups()))
        place = found.end()
    return tests


def _test(name, operator, value):
    value = re.sub(r"\\(.)", r"\1", value)
    if operator in {"=", "!="}:
        return lambda labels: (labels.get(name, "") == value) == (operator == "=")
    pattern = re.compile(value)
    return lambda labels: bool(pattern.fullmatch(labels.get(name, ""))) == (operator == "=~")


def series(name: str, value: Callable[[float], float | None] = lambda _: 1.0, **labels: str):
    """One entry of a fleet."""
    return tuple(sorted({"__name__": name, **labels}.items())), value
