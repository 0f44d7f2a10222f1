"""The table at the end of a run on a real node: what was proved, and where.

A test of tests/node is one line: what it says in the first line of its docstring, or its name. What did not run says
why; a run that proved nothing cannot be mistaken for one that did.
"""

import re

import pytest

from tests.second_try import PASSED_LATE

_FOLDER = "tests/node/"
_PLACE = pytest.StashKey[str]()
_ROWS = pytest.StashKey[dict[str, tuple[str, str]]]()
_WIDTH = 76


def place(config: pytest.Config, text: str) -> None:
    """Say where the tests of this run prove what they prove."""
    config.stash[_PLACE] = text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Keep the result of each test, which its set-up or its tear-down may decide as well."""
    report = yield
    if not item.nodeid.startswith(_FOLDER):
        return report
    rows = item.config.stash.setdefault(_ROWS, {})
    if report.failed:
        rows[item.nodeid] = (_what(item), "FAILED")
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        rows[item.nodeid] = (_what(item), reason.removeprefix("Skipped: "))
    elif report.when == "call":
        rows.setdefault(item.nodeid, (_what(item), "proved"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(_ROWS, {})
    if not rows:
        return
    terminalreporter.section(f"proved on {config.stash.get(_PLACE, 'no node')}")
    late = {report.nodeid for report in terminalreporter.stats.get(PASSED_LATE, ())}
    for name, (what, result) in rows.items():
        if name in late:
            terminalreporter.write_line(f"{what[:_WIDTH]:<{_WIDTH}}  {PASSED_LATE}")
            continue
        said = result if result in {"proved", "FAILED"} else f"not run: {result}"
        terminalreporter.write_line(f"{what[:_WIDTH]:<{_WIDTH}}  {said}")


def _what(item: pytest.Item) -> str:
    name = item.name.removeprefix("test_")
    words, _, chosen = name.partition("[")
    said = (getattr(item.obj, "__doc__", None) or words.replace("_", " ")).strip().splitlines()[0].rstrip(".")
    return f"{said} ({re.sub(r'[-_]', ', ', chosen[:-1])})" if chosen else said
