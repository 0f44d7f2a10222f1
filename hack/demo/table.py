"""Shows the demonstration while it runs: a live table in a terminal, else one log line every ten seconds.

Pure rendering of what was seen; unknown numbers are shown as "-", never as zero.
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hack.demo.watch import Service, Sight, Trace

LOG_SECONDS = 10.0
LEFT = frozenset({"service", "mode", "bottleneck", "effective"})
COLUMNS = (
    *("service", "mode", "replicas", "desired", "serving", "waiting"),
    *("KV", "GPU%", "bottleneck", "effective", "savings/mo"),
)


class Screen:
    """The live table, or the log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._logged = float("-inf")
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line that stays."""
        stamp = f"{time.monotonic() - self._started:5.0f} s  "
        self._console.print(Text(stamp, style="dim") + Text(text), soft_wrap=True)
        sys.stdout.flush()

    def show(self, sight: Sight, operator: str) -> None:
        """Show what was seen."""
        if self._console.is_terminal:
            self._live.update(Group(render(sight), Text(footer(sight, operator))))
        elif sight.at - self._logged >= LOG_SECONDS:
            self._logged = sight.at
            self.say(line(sight, operator))


def render(sight: Sight) -> Table:
    """The table of services."""
    table = Table(expand=False, caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in LEFT else "right")
    for service in sight.services.values():
        table.add_row(*cells(service))
    return table


def cells(service: Service) -> tuple[str, ...]:
    """One service, in the order of the columns."""
    return (
        service.name,
        service.mode,
        str(service.replicas),
        _number(service.desired),
        _number(service.serving),
        _number(service.waiting),
        "-" if service.kv_usage is None else f"{service.kv_usage:.0%}",
        service.gpu_percent or "-",
        service.bottleneck or "-",
        service.effective or "-",
        service.savings or "-",
    )


def footer(sight: Sight, operator: str) -> str:
    """The lines under the table."""
    trace = trace_text(sight.trace)
    nodes = f"nodes: {sight.idle_gpus} idle GPUs, {sight.emptyable_nodes} could be emptied"
    return f" operator: {operator}\n load of chat: {trace}\n {nodes}"


def trace_text(trace: Trace | None) -> str:
    """Where the load stands."""
    if trace is None:
        return "-"
    if trace.seconds is None:
        return "not begun"
    ttft = "-" if trace.ttft_p95 is None else f"{trace.ttft_p95:.1f} s"
    over = ", over" if trace.done else ""
    return (
        f"{trace.seconds:.0f} of {trace.length:.0f} s{over}, {trace.arrived} requests, {trace.late_share:.1%} late, "
        f"TTFT p95 {ttft}"
    )


def line(sight: Sight, operator: str) -> str:
    """The same in one line of log."""
    parts = [
        f"{service.name} {service.replicas} replicas (desired {_number(service.desired)}, serving "
        f"{_number(service.serving)}, waiting {_number(service.waiting)}, {service.bottleneck or '-'})"
        for service in sight.services.values()
    ]
    return f"operator {operator} | load {trace_text(sight.trace)} | " + " | ".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
