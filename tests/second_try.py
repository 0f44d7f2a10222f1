"""A second try for a few files with failures: they run once more, alone, on control planes of their own.

Real etcd, controllers and operators share two processors and a disk with everything else that runs meanwhile, and a
process that got none of them for a while is no fault of what is tested; what it left unclosed is blamed on whichever
test runs when it is collected, of any folder. A fault of ours fails twice. What passed only at the second try is no
secret either: the closing line counts it by itself, its first failure is printed in full, and it is to be looked at
like any other failure.

Asked for by `--second-try` (`make test` does). It refuses where more than six files failed, which is no accident, and
where a test marked `safety` did: what happens once in fifty times is just what those look for.
"""

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_FILES = 6
SAFETY = "safety"
SECONDS = 1500
PASSED_LATE = "passed only at a second try"
_FAILED = ("failed", "error")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    help_text = "run files with failures once more, alone, if they are few"
    parser.addoption("--second-try", action="store_true", help=help_text)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Run them, in the process that collects all results, and take their second result as theirs."""
    config = session.config
    if not config.option.second_try or hasattr(config, "workerinput"):
        return
    reporter = config.pluginmanager.getplugin("terminalreporter")
    reports = [report for kind in _FAILED for report in reporter.stats.get(kind, ())]
    files = {report.nodeid.partition("::")[0] for report in reports}
    final = len(files) > LIMIT_FILES or any(SAFETY in report.keywords for report in reports)
    if session.exitstatus != pytest.ExitCode.TESTS_FAILED or final:
        return
    reporter.ensure_newline()
    reporter.section("second try, alone: " + ", ".join(sorted(files)))
    if _passes(config.rootpath, sorted(files), marks=config.option.markexpr):
        _report_late(reporter, reports)
        session.exitstatus = pytest.ExitCode.OK


def _passes(root: Path, files: list[str], *, marks: str) -> bool:
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "-m", marks, *files]
    try:
        return subprocess.run(command, cwd=root, check=False, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _report_late(reporter: pytest.TerminalReporter, reports: list[pytest.TestReport]) -> None:
    """Print how they failed at first, and move them out of the failures."""
    for report in reports:
        reporter.section(f"failed at the first try: {report.nodeid}", sep="_")
        reporter.write_line(report.longreprtext)
        for title, text in report.sections:
            reporter.section(title, sep="-")
            reporter.write_line(text)
    for kind in _FAILED:
        reporter.stats.pop(kind, None)
    reporter.stats[PASSED_LATE] = reports
