"""Figures that tests count while they run, such as faults injected or writes seen, printed after the last test.

Each process appends lines to one file, which the first process names in the environment before others start; with
OPTIINFRA_FIGURES set by whoever runs the tests the file stays, for `python -m hack.reliability FILE`. Nothing is judged
here: a limit is asserted by the test that counted.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "OPTIINFRA_FIGURES"
_OURS = pytest.StashKey[bool]()


class Figures:
    """What one test counted."""

    def __init__(self, path: Path, test: str) -> None:
        self._path = path
        self._test = test

    def add(self, topic: str, what: str, value: float, unit: str = "") -> None:
        """Write one figure down; a topic is a heading of the table, such as "fault proxy"."""
        line = json.dumps({"topic": topic, "what": what, "value": value, "unit": unit, "test": self._test})
        with self._path.open(
            "a", encoding="utf-8"
        ) as file:  # one short write: processes do not tear each other's lines
            file.write(line + "\n")


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Take the figures of this test."""
    return Figures(Path(os.environ[VARIABLE]), request.node.name)


def pytest_configure(config: pytest.Config) -> None:
    """Name the file, in the process that starts the others."""
    if VARIABLE not in os.environ:
        handle, name = tempfile.mkstemp(prefix="optiinfra-figures-", suffix=".jsonl")
        os.close(handle)
        os.environ[VARIABLE] = name
        config.stash[_OURS] = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the file that nobody asked for."""
    if config.stash.get(_OURS, False):
        Path(os.environ.pop(VARIABLE)).unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print all figures, by topic; the last of several with the same text."""
    rows = {(row["topic"], row["what"]): row for row in _rows(Path(os.environ[VARIABLE]))}
    if not rows:
        return
    terminalreporter.section("figures")
    for _, row in sorted(rows.items()):
        terminalreporter.write_line(f"{row['topic']}: {row['what']}: {row['value']:g} {row['unit']}".rstrip())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
