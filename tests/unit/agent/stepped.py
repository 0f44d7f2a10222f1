"""The agent's own collection, page and health in a process of its own, one step at a time.

The real objects, the real binding, a driver library that fails on request; only the clock that decides about pauses is
moved on by hand, and nothing runs between two steps. So a fault costs one collection and not one interval.

As a program it reads one JSON line a step from its input (`{"ahead": seconds}`), collects once, and answers with one.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.unit.agent.conftest import environment

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Step:
    """What the agent shows after one collection."""

    snapshot: dict[str, Any]
    metrics: dict[str, float]
    health: dict[str, Any]
    live: str

    @property
    def state(self) -> str:
        """State of the driver as a source."""
        return self.snapshot["sources"]["nvml"]["state"]

    @property
    def reason(self) -> str:
        """Why it is in that state."""
        return self.snapshot["sources"]["nvml"].get("reason", "")

    @property
    def gpu(self) -> dict[str, Any]:
        """The first GPU."""
        return self.snapshot["gpus"][0]

    def capability(self, name: str) -> str:
        """State of one capability, as health has it; the metrics have to say the same."""
        state = self.health["components"]["capabilities"]["able"][name]["state"]
        assert self.metrics[f'optiinfra_agent_capability_state{{capability="{name}",state="{state}"}}'] == 1
        return state

    def of_gpus(self, name: str) -> dict[str, float]:
        """Series of a metric by the number of the GPU in the uuid that the stub gives."""
        start = f"optiinfra_gpu_{name}{{"
        return {series: value for series, value in self.metrics.items() if series.startswith(start)}


class Stepped:
    """The process."""

    def __init__(self, **settings: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.agent.stepped"],
            env=environment(**{"PYTHONPATH": str(ROOT), **settings}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def step(self, *, ahead: float = 120.0) -> Step:
        """Let so many seconds go by and collect once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"ahead": ahead}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process has ended with {self._process.wait(timeout=10)}"
        answer = json.loads(line)
        series = (one.rsplit(" ", 1) for one in answer.pop("page").splitlines() if not one.startswith("#"))
        return Step(metrics={name: float(value) for name, value in series}, **answer)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait(timeout=10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def main() -> None:
    """Answer steps until the input ends."""
    from optiinfra_agent import health
    from optiinfra_agent.collection import Collection
    from optiinfra_agent.metrics import Exposition
    from optiinfra_agent.registration import Registration
    from optiinfra_agent.settings import read_settings
    from optiinfra_agent.traffic import Traffic

    settings = read_settings(os.environ)
    real, ahead = time.monotonic, [0.0]

    def clock() -> float:
        return real() + ahead[0]

    with mock.patch.object(time, "monotonic", clock):
        collection = Collection(settings)
        # The loop's thread is not started, and liveness asks for it: here each step is a turn of it.
        collection._thread = threading.current_thread()
        traffic = Traffic()
        registration = Registration(
            settings,
            endpoint="http://test",
            measured=threading.Event(),
            report=lambda: health.report(collection, traffic.answered),
        )
        page = Exposition(collection=collection, registration=registration, traffic=traffic)
        for line in sys.stdin:
            ahead[0] += json.loads(line)["ahead"]
            collection._progress = time.monotonic()
            published = collection.collect()
            answer = {
                "snapshot": json.loads(published.body),
                "page": page.page("text/plain")[0].decode(),
                "health": health.detail(collection, registration.state),
                "live": collection.liveness(),
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
