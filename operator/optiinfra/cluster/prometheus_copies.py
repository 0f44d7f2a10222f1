"""Copies of every series, from two replicas of Prometheus that write into one server.

Thanos, Mimir and VictoriaMetrics drop such copies where they are told to. Where they are not, every sum is twice as
large. Labels that tell replicas apart are few and known; that they do is shown by the series themselves, which differ
in nothing else. Then each question is asked once a replica and the larger value at each step is kept, so that a gap of
one replica is filled by the other and nothing is counted twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.cluster.errors import Invalid
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_counts import SeriesCounts
from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_matchers import Matcher, one_of

REPLICA_LABELS: Final = ("prometheus_replica", "__replica__", "replica")
"""Of the Prometheus operator, of Mimir's and Cortex's documentation, and the usual one in that of Thanos."""
_MOST_COPIES: Final = 4
_MOST_VALUES: Final = 1_000
_NAMES: Final = 60


@dataclass(frozen=True, slots=True)
class Copies:
    """The label that tells copies apart, and its values; none: ("", ())."""

    label: str = ""
    values: tuple[str, ...] = ()

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """Return one matcher a copy; series without the label are in each of them."""
        return tuple(one_of(self.label, (value, "")) for value in self.values)


async def find_copies(
    caller: Caller,
    counts: SeriesCounts,
    grid: TimeGrid,
    matchers: Sequence[Matcher],
    *,
    labels: Sequence[str] = REPLICA_LABELS,
) -> Copies:
    """Find out whether series come in copies, at the end of the range. Raises `ClusterError`."""
    sizes = {name: sum(of_name.values()) for name, of_name in counts.series.items()}
    names = sorted(sizes, key=lambda name: (sizes[name], name))[:_NAMES]
    last = Piece(grid.end, grid.step, 1)
    for label in labels:
        if not names or any(one.name == label for one in matchers):
            continue
        only = ",".join(str(one) for one in (Matcher(label, "!=", ""), *matchers))
        among = str(one_of("__name__", names))
        try:
            told = await caller.rows(
                f"count by (__name__,{label}) ({{{among},{only}}})",
                last,
                by=("__name__", label),
                most_series=_MOST_VALUES,
            )
        except Invalid:
            # More values than replicas ever have: the label means something else here.
            continue
        of_name: dict[str, list[str]] = {}
        for name, value in told.keys:
            of_name.setdefault(name, []).append(value)
        smallest = next((name for name in names if len(of_name.get(name, ())) > 1), None)
        values = tuple(sorted({value for _, value in told.keys}))
        if smallest is None or len(values) > _MOST_COPIES:
            continue
        selector = f'{{__name__="{smallest}",{only}}}'
        alike = await caller.rows(f"count(count without ({label}) ({selector}))", last, by=(), most_series=1)
        every = await caller.rows(f"count({selector})", last, by=(), most_series=1)
        if np.nansum(alike.values) < np.nansum(every.values):
            return Copies(label, values)
    return Copies()
