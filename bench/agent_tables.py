"""What the agent's bench says: figures with what is needed of them, as a table to read and as docs/agent-costs.md.

It judges nothing but figure against limit, and it measures nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PEER = "node_exporter"

_HEAD = """# What the agent costs

Written by `python -m bench.agent --out docs/agent-costs.md`, in one run on one machine. The GPUs are the tests' stub of
the driver library, whose calls take no time of their own: what a real driver takes comes on top, in a thread that no
reader waits for. The pods are those of the tests' stand-in for the kubelet. node_exporter runs with its default
collectors; it serves other things (no GPUs, no pods; every disk, interface and file system), so its column says what
people are used to pay on a node, not that one does the work of the other.
"""
_TAIL = """
- **Resident memory** is that after an hour's worth of scrapes, one every four seconds.
- **Growth** is the slope of resident memory over four hours of collections and scrapes, lived through at speed
  (`python -m bench.agent_hour`); `tests/unit/agent/test_prometheus_checks.py` holds the agent to it.
- **Start to ready** runs from the creation of the process to the first page read whole: `/v1/snapshot` of the agent,
  `/metrics` of node_exporter. The programs start in turns.
- **CPU at 15 s** is one collection and one scrape every 15 s; node_exporter collects while it is scraped.
- **p50, p95** are of readings over one kept connection, the programs in turns. Wall times hold for this machine and
  what else it did; CPU times are the figures to compare.
"""


@dataclass(frozen=True, slots=True)
class Needed:
    """What a figure must not exceed, and what is aimed at."""

    limit: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure of one program; without a limit it is only told."""

    who: str
    name: str
    value: float
    unit: str
    needed: Needed | None = None

    @property
    def limit(self) -> float | None:
        """What it must not exceed."""
        return None if self.needed is None else self.needed.limit

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.needed is None or self.value <= self.needed.limit

    @property
    def verdict(self) -> str:
        """How it stands to limit and aim, in words."""
        if self.needed is None:
            return ""
        if not self.holds:
            return "MISSED"
        return "short of the aim" if self.needed.aim is not None and self.value > self.needed.aim else "ok"


def document(figures: Sequence[Figure], *, told: str) -> str:
    """Return docs/agent-costs.md."""
    columns = list(dict.fromkeys(figure.who for figure in figures))
    named = {(figure.name, figure.who): figure for figure in figures}
    names = dict.fromkeys(figure.name for figure in sorted(figures, key=_place))
    lines = [f"| | {' | '.join(columns)} | needed | aim |", f"|---|{'---|' * len(columns)}---|---|"]
    for name in names:
        cells = [_cell(named.get((name, who))) for who in columns]
        needed = next((named[name, who].needed for who in columns if (name, who) in named), None)
        limit = "" if needed is None else f"<= {needed.limit:g}"
        aim = "" if needed is None or needed.aim is None else f"<= {needed.aim:g}"
        lines.append(f"| {name} | {' | '.join(cells)} | {limit} | {aim} |")
    return f"{_HEAD}\n{told}\n\n" + "\n".join(lines) + f"\n\n{_shortfalls(figures)}\n{_TAIL}"


def _place(figure: Figure) -> int:
    """Sort figures of one kind together; the order of the first program decides the rest."""
    kinds = ("resident", "growth", "CPU of one core", "CPU of one collection", "start", "CPU time", "/metrics", "/v1")
    return next((place for place, kind in enumerate(kinds) if figure.name.startswith(kind)), len(kinds))


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = f"{figure.value:.3g} {figure.unit}" if abs(figure.value) >= 0.005 else f"{figure.value:.3f} {figure.unit}"
    return text if figure.holds else f"**{text}**"


def _shortfalls(figures: Sequence[Figure]) -> str:
    short = [figure for figure in figures if figure.verdict not in {"", "ok"}]
    if not short:
        return "Every figure keeps its limit and reaches its aim."
    words = [f'{figure.name} of "{figure.who}" ({_cell(figure).strip("*")}: {figure.verdict})' for figure in short]
    return "Not reached: " + "; ".join(words) + "."


def print_table(figures: Sequence[Figure]) -> None:
    """Print one line a figure."""
    for figure in figures:
        limit = "" if figure.limit is None else f"<= {figure.limit:g}"
        print(
            f"{figure.who:24} {figure.name:40} {figure.value:9.3f} {figure.unit:6}{limit:>8}  {figure.verdict}".rstrip()
        )
