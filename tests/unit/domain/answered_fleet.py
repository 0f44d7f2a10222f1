"""Answers of a metrics server, written down: frames by question, without a server.

What a question returns is given as {key: values}; labels that are not named are "". Whether real servers answer so is
proven where real servers run.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from optiinfra.domain.report.frames import FloatArray, Frame, Question
from optiinfra.domain.report.history import FleetHistory, GpuHistory, Lack, Missing, ModelHistory
from optiinfra.domain.report.joining import join
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.units import UnixTime
from optiinfra.engines.promql_fleet import discovery_questions, fleet_questions

POINTS: Final = 24
STEP_S: Final = 300.0
END: Final = 1_800_000_000.0
TIMES: Final = END - STEP_S * np.arange(POINTS - 1, -1, -1.0)
NOW: Final = UnixTime(END + 10.0)
UUID: Final = "GPU-11111111-2222-3333-4444-555555555555"
Labels = Mapping[str, str]
Given = float | Sequence[float] | FloatArray


class Fleet:
    """Collects answers and joins them."""

    def __init__(self, *, found: Found | None = None) -> None:
        self.found = Found() if found is None else found
        self._questions = {one.name: one for one in (*discovery_questions(), *fleet_questions(self.found))}
        self._rows: dict[str, dict[tuple[str, ...], FloatArray]] = {}
        self.unanswered: list[tuple[str, str]] = []

    def say(self, question: str, values: Given, **labels: str) -> "Fleet":
        """Add one row to the answer of a question."""
        asked = self._questions[question]
        assert set(labels) <= set(asked.by), f"{question} is not answered by {set(labels) - set(asked.by)}"
        points = 1 if asked.latest else POINTS
        key = tuple(labels.get(label, "") for label in asked.by)
        course = np.broadcast_to(np.asarray(values, dtype=np.float64), (points,)).copy()
        self._rows.setdefault(question, {})[key] = course
        return self

    def engine(self, engine: str, workload: str, namespace: str = "inference", **fields: Given) -> "Fleet":
        """Add what one engine says of one workload; `serving` is 1 unless it is given."""
        for name, values in {"serving": 1.0, **fields}.items():
            self.say(f"{engine}.{name}", values, namespace=namespace, workload=workload)
        return self

    def gpu(self, uuid: str = UUID, node: str = "node-a", **fields: Given) -> "Fleet":
        """Add what dcgm-exporter says of one GPU."""
        for name, values in {"utilization": 0.5, **fields}.items():
            self.say(f"dcgm.{name}", values, UUID=uuid, Hostname=node)
        return self

    def frames(self) -> tuple[Frame, ...]:
        """Return all answers."""
        return tuple(self._frame(self._questions[name], rows) for name, rows in self._rows.items())

    def joined(self, *, now: UnixTime = NOW) -> FleetHistory:
        """Join them."""
        return join(self.frames(), now=now, found=self.found, unanswered=self.unanswered)

    def _frame(self, question: Question, rows: dict[tuple[str, ...], FloatArray]) -> Frame:
        keys = tuple(sorted(rows))
        times = TIMES[-1:] if question.latest else TIMES
        return Frame(question, keys, times, np.stack([rows[key] for key in keys]), samples=100)


def lines(history: FleetHistory, lack: Lack) -> list[Missing]:
    """Return what is told missing for one reason."""
    return [line for line in history.missing if line.lack is lack]


def model(history: FleetHistory, key: str) -> ModelHistory:
    """Return one model."""
    return next(one for one in history.models if one.key == key)


def gpu(history: FleetHistory, key: str = UUID) -> GpuHistory:
    """Return one GPU."""
    return next(one for one in history.gpus if one.key == key)
