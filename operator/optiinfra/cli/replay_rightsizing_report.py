"""What a right-sizing replay prints: a table for people, one document for machines, the decisions as a file."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from optiinfra.cli.replay_rightsizing_source import COLUMNS, UsageFile
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replay.sizing import Sized
from optiinfra.domain.replay.sizing_figures import SizingFigures
from optiinfra.domain.right_sizing import SizingPolicy

GIBIBYTE: Final = 1024.0**3
_NAME: Final = 22


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed."""

    file: UsageFile
    policy: SizingPolicy
    sized: Sized
    ours: SizingFigures
    others: Mapping[str, SizingFigures]
    seconds: float
    """CPU time of all decisions, reading of samples into histories included."""

    @property
    def decisions_made(self) -> int:
        """Container-days for which something was decided."""
        return sum(len(one.time) for one in self.sized.requests)

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            **_plain(self.ours),
            "days": self.file.days,
            "merged_samples": self.file.merged,
            "decisions": self.decisions_made,
            "cpu_ms_per_decision": 1000.0 * self.seconds / max(1, self.decisions_made),
            "stated": {
                "cpu_over_time": self.sized.stated_over_time,
                "oom_days_per_100": 100.0 * self.sized.stated_exceedance,
            },
            "wanted": {
                "cpu_over_time": self.policy.cpu_over_time,
                "oom_days_per_100": 100.0 * self.policy.memory_exceedance,
            },
            "reasons": {
                "cpu": {str(reason): count for reason, count in sorted(self.sized.cpu_reasons.items())},
                "memory": {str(reason): count for reason, count in sorted(self.sized.memory_reasons.items())},
            },
            "baselines": {name: _plain(one) for name, one in self.others.items()},
        }

    def lines(self) -> list[str]:
        """Return the summary, line by line."""
        known = not isinstance(self.ours.cpu_provisioned, Unknown)
        size = f"{'CPU of given':>12}" if known else f"{'CPU cores':>12}"
        memory = f"{'mem of given':>12}" if known else f"{'memory GiB':>12}"
        head = (
            f"{'':<{_NAME}}{size} {'slack':>6} {'over-time':>9} {'throttled':>9} {memory} {'slack':>6} "
            f"{'OOM days/100':>12}"
        )
        rows = [_row("OptiInfra", self.ours, known=known)]
        rows += [_row(name, one, known=known) for name, one in self.others.items()]
        told = f"{len(self.file.containers)} containers, {self.file.days:.1f} days, {self.decisions_made} decisions"
        wanted = f"over-time {self.policy.cpu_over_time:.2%}, OOM days/100 {100.0 * self.policy.memory_exceedance:g}"
        stated = f"{self.sized.stated_over_time:.2%}, {100.0 * self.sized.stated_exceedance:.3g}"
        return [
            f"{self.file.name}: {told}",
            *([f"{self.file.merged} samples merged: of one moment the largest counts"] if self.file.merged else []),
            head,
            *rows,
            "",
            f"wanted: {wanted}; stated: {stated}",
            f"decided by, CPU: {_counted(self.sized.cpu_reasons)}",
            f"decided by, memory: {_counted(self.sized.memory_reasons)}",
            "amounts are means of a container-day; use above a request is not held back here, a real limit would",
        ]

    def decisions(self) -> str:
        """Return `time_s,container,cpu_request_cores,memory_request_bytes`; empty where nothing was known."""
        text = io.StringIO()
        write = csv.writer(text, lineterminator="\n")
        write.writerow([*COLUMNS[:2], "cpu_request_cores", "memory_request_bytes"])
        rows = [
            (float(time), name, _exact(cpu), _exact(memory))
            for name, one in zip(self.file.containers, self.sized.requests, strict=True)
            for time, cpu, memory in zip(one.time, one.cpu_cores, one.memory_bytes, strict=True)
        ]
        for time, *rest in sorted(rows, key=lambda row: row[0]):
            write.writerow([f"{time:.15g}", *rest])
        return text.getvalue()


def _exact(value: np.float64) -> str:
    """Every digit, so that the figures can be recomputed to the last sample."""
    return "" if np.isnan(value) else repr(float(value))


def _plain(one: SizingFigures) -> dict[str, Any]:
    found = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: None if isinstance(value, Unknown) else value for name, value in found.items()}


def _counted(reasons: Mapping[Any, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1])) or "-"


def _row(name: str, one: SizingFigures, *, known: bool) -> str:
    cpu = _share(one.cpu_provisioned, 12) if known else _number(one.cpu_request_cores, 12, 1.0)
    memory = _share(one.memory_provisioned, 12) if known else _number(one.memory_request_bytes, 12, GIBIBYTE)
    return (
        f"{name:<{_NAME}}{cpu} {_share(one.cpu_slack, 6, digits=0)} {_share(one.cpu_over_time, 9)} "
        f"{_share(one.throttled_days, 9)} {memory} {_share(one.memory_slack, 6, digits=0)} "
        f"{_number(one.oom_days_per_100, 12, 1.0)}"
    )


def _share(value: Value, width: int, *, digits: int = 2) -> str:
    return f"{'-':>{width}}" if isinstance(value, Unknown) else f"{value:>{width}.{digits}%}"


def _number(value: Value, width: int, unit: float) -> str:
    return f"{'-':>{width}}" if isinstance(value, Unknown) else f"{value / unit:>{width}.3g}"
