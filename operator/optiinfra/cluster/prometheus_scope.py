"""From questions to calls: what exists is counted, what is missing or too large is not asked, the rest is planned.

Questions are counted together by the label that they may be split by, so that a fleet's questions cost a handful of
small calls before the first number is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_copies import Copies, find_copies
from optiinfra.cluster.prometheus_counts import SeriesCounts, count_series, scrape_interval
from optiinfra.cluster.prometheus_grid import LEAST_WINDOW, TimeGrid
from optiinfra.cluster.prometheus_matchers import Matcher, filled, one_of
from optiinfra.cluster.prometheus_plan import AskLimits, Part, grid_of, parts, pieces, points_of, samples_a_step
from optiinfra.cluster.prometheus_reading import Answering, Task
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.frames import Question
from optiinfra.domain.units import Seconds

_NAMED: Final = 4
_ALONE: Final = Part((), 1)


@dataclass(frozen=True, slots=True)
class NotAsked:
    """A question without a frame, and why."""

    question: Question
    reason: Unknown
    """NOT_MEASURED: none of its series exist; INVALID: the server refuses it, or it is too large."""


@dataclass(frozen=True, slots=True)
class Scope:
    """When, and about what."""

    grid: TimeGrid
    matchers: tuple[Matcher, ...]
    namespaces: tuple[str, ...]

    def matchers_for(self, label: str) -> tuple[Matcher, ...]:
        """Return the matchers of questions that are split by a label: namespaces only where it names one."""
        if self.namespaces and label.endswith("namespace"):
            return (*self.matchers, one_of(label, sorted(set(self.namespaces))))
        return self.matchers


@dataclass(frozen=True, slots=True)
class Counted:
    """What was found before anything was read."""

    by_label: Mapping[str, SeriesCounts]
    copies: Copies
    scrape_s: float

    @property
    def total(self) -> int:
        """Series of all names, each name once."""
        sizes: dict[str, int] = {}
        for counts in self.by_label.values():
            for name, series in counts.series.items():
                sizes[name] = max(sizes.get(name, 0), sum(series.values()))
        return sum(sizes.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be asked."""

    answering: tuple[Answering, ...]
    tasks: tuple[Task, ...]
    not_asked: tuple[NotAsked, ...]


async def count_all(
    caller: Caller, questions: Sequence[Question], scope: Scope, *, replica_labels: Sequence[str]
) -> Counted:
    """Count what the questions read. Raises `ClusterError`."""
    names: dict[str, dict[str, None]] = {}
    for question in questions:
        names.setdefault(question.split_by, {}).update(dict.fromkeys(question.metrics))
    by_label = {
        label: await count_series(caller, list(wanted), scope.grid, scope.matchers_for(label), label=label)
        for label, wanted in names.items()
        if wanted
    }
    merged = SeriesCounts(
        frozenset().union(*(counts.names for counts in by_label.values())),
        {name: series for counts in by_label.values() for name, series in counts.series.items()},
    )
    copies = await find_copies(caller, merged, scope.grid, scope.matchers, labels=replica_labels)
    return Counted(by_label, copies, await scrape_interval(caller, merged, scope.grid, scope.matchers))


def planned(
    questions: Sequence[Question], scope: Scope, counted: Counted, *, limits: AskLimits, link: Callable[[str], str]
) -> Plan:
    """Plan the calls of all questions; `link`: a query -> an address that shows it."""
    answering: list[Answering] = []
    tasks: list[Task] = []
    not_asked: list[NotAsked] = []
    for question in questions:
        counts = counted.by_label.get(question.split_by)
        reason = _why_not(question, counts, scope)
        listed: tuple[Part, ...] = (_ALONE,)
        if reason is None and counts is not None and question.metrics:
            whole = filled(question.promql, matchers=(), window=grid_of(question, scope.grid).window)
            a_step = samples_a_step(whole, scrape_s=counted.scrape_s)
            listed = parts(question, counts.of(question.metrics), limits, a_step=a_step)
            reason = _too_large(listed, limits)
        if reason is not None:
            not_asked.append(NotAsked(question, reason))
            continue
        matchers = scope.matchers_for(question.split_by)
        whole = filled(question.promql, matchers=matchers, window=grid_of(question, scope.grid).window)
        one = Answering(question, scope.grid, link(whole), limits.points)
        answering.append(one)
        tasks += _tasks(one, listed, matchers, counted, limits)
    return Plan(tuple(answering), tuple(tasks), tuple(not_asked))


def _tasks(
    one: Answering, listed: Sequence[Part], matchers: Sequence[Matcher], counted: Counted, limits: AskLimits
) -> list[Task]:
    copies: tuple[Matcher | None, ...] = counted.copies.matchers or (None,)
    tasks = []
    for number, part in enumerate(listed):
        for copy in copies:
            also = () if copy is None else (copy,)
            limited = (*matchers, *part.matchers, *also)
            query = filled(one.question.promql, matchers=limited, window=one.grid.window)
            series = max(1, part.series // len(copies))
            a_step = samples_a_step(query, scrape_s=counted.scrape_s)
            points = points_of(Part(part.matchers, series), a_step=a_step, limits=limits)
            tasks += [
                Task(one, query, series, a_step, number, first, length)
                for first, length in pieces(one.question, one.grid, points)
            ]
            if one.rest_s:
                window = Seconds(max(one.rest_s, LEAST_WINDOW))
                query = filled(one.question.promql, matchers=limited, window=window)
                tasks.append(Task(one, query, series, a_step, number, one.grid.points, 1))
    return tasks


def _why_not(question: Question, counts: SeriesCounts | None, scope: Scope) -> Unknown | None:
    """Say why there is no use in asking; None where there is."""
    if not question.metrics or counts is None:
        return None
    refused = next((name for name in question.metrics if name in counts.too_many), None)
    if refused is not None:
        text = f"the series of {refused} are too many to be counted: {counts.too_many[refused]}"
        return Unknown(UnknownReason.INVALID, text)
    if any(name in counts.names for name in question.metrics):
        return None
    listed = ", ".join(question.metrics[:_NAMED])
    more = f" and {len(question.metrics) - _NAMED} more" if len(question.metrics) > _NAMED else ""
    where = ",".join(str(one) for one in scope.matchers_for(question.split_by))
    since, until = (datetime.fromtimestamp(at, tz=UTC) for at in (scope.grid.start, scope.grid.end))
    text = f"no series {listed}{more}{f' with {where}' if where else ''} from {since:%Y-%m-%d} to {until:%Y-%m-%d}"
    return Unknown(UnknownReason.NOT_MEASURED, text)


def _too_large(listed: Sequence[Part], limits: AskLimits) -> Unknown | None:
    largest = max(part.series for part in listed)
    if largest <= limits.most_series:
        return None
    text = f"it reads {largest} series at once, at most {limits.most_series} are asked for: ask for fewer namespaces"
    return Unknown(UnknownReason.INVALID, text)
