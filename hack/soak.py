"""Runs the long tests in parts, one after another, and writes docs/reliability.md: `make soak`, `python -m hack.soak`.

    python -m hack.soak --list                what there is, and how long it takes
    python -m hack.soak replicas churn        some parts; the page keeps the figures of the others
    python -m hack.soak --short               an hour and a half: faults of one seed, replicas, neighbours, some churn

Each part is a run of pytest of its own, with control planes of its own, so that one that fails or is ended costs the
others nothing. Its figures replace those of its last run in docs/reliability, and the page is written from all that are
there: each with its day, the code that it ran on, and whether it passed. A part that fails is said to have failed.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from hack import reliability

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reliability"
"""Committed with the page, so that one part can be run again on any clone and the others keep their figures."""
_MARK = "pytest.mark." + "soak"
SEEDS = "OPTIINFRA_SOAK_SEEDS"
SHORT = {"OPTIINFRA_CRASH_EVERY": "4", "OPTIINFRA_CHURN_ROUNDS": "600"}
_FAULTS = "tests/apiserver/test_faults_soak.py::test_"
CALLS = (f"{_FAULTS}after_each_kind_of_refused_lost_or_late_call_all_is_as_without_it",)
WATCHES = (f"{_FAULTS}after_each_kind_of_fault_of_watches_all_is_as_without_it",)
GAP = (f"{_FAULTS}objects_that_are_deleted_in_a_gap_of_the_watch_are_found_gone",)
CRASHES = f"{_FAULTS}a_crash_before_and_after_every_write_changes_nothing_in_the_end"


@dataclass(frozen=True)
class Part:
    """Tests that run together."""

    what: str
    minutes: int
    """About, on two cores that nobody else uses."""
    paths: tuple[str, ...]
    marks: str = "soak"
    environment: Mapping[str, str] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)


PARTS = {
    "counted": Part(
        "what `make test` counts: the quick faults, neighbours and attacks",
        15,
        ("tests/unit", "tests/apiserver", "tests/controllers"),
        marks="figures and not soak",
    ),
    "replicas": Part("two replicas, one of them lost", 8, ("tests/apiserver/test_faults_replicas.py",)),
    "calls-1": Part("each kind of refused, lost or late call", 9, CALLS, environment={SEEDS: "1"}),
    "calls-2": Part("the same by another seed", 9, CALLS, environment={SEEDS: "2"}),
    "watches-1": Part("each kind of fault of watches", 14, WATCHES, environment={SEEDS: "1"}),
    "watches-2": Part("the same by another seed", 14, WATCHES, environment={SEEDS: "2"}),
    "gap": Part("deletions in a gap of the watch", 3, GAP),
    "crashes-floor": Part("a crash before and after every write of Floor", 40, (f"{CRASHES}[Floor]",), short=SHORT),
    "crashes-own": Part("a crash before and after every write of Own", 40, (f"{CRASHES}[Own]",), short=SHORT),
    "fights": Part("the operator among other writers", 12, ("tests/controllers/test_never_fights.py",)),
    "mutations": Part("mutated objects", 10, ("tests/apiserver/test_mutated_specs.py",)),
    "keda": Part("the real KEDA", 10, ("tests/controllers/test_keda.py",)),
    "dead-operator": Part("an hour without it", 6, ("tests/controllers/test_dead_operator.py",)),
    "verification": Part(
        "actions judged, under noise and end to end",
        15,
        ("tests/unit/domain/test_verification.py", "tests/controllers/test_rollback.py"),
    ),
    "churn": Part("a day of churn at speed", 20, ("tests/apiserver/test_churn.py",), short=SHORT),
}


WHEN_SHORT = ("replicas", "calls-1", "watches-1", "gap", "crashes-floor", "crashes-own", "fights", "churn")
"""What a short run is about, when no part is named."""


def parts() -> dict[str, Part]:
    """Return all parts by name."""
    others = unnamed()
    return PARTS | ({"others": Part("what belongs to none of these", 20, others)} if others else {})


def unnamed() -> tuple[str, ...]:
    """Return the files with long tests that no part names; they run as the part "others"."""
    named = {path.partition("::")[0] for part in PARTS.values() for path in part.paths}
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if _MARK in path.read_text(encoding="utf-8"))
    return tuple(name for path in files if (name := str(path.relative_to(ROOT))) not in named)


def run(name: str, *, folder: Path, short: bool, extra: Sequence[str]) -> bool:
    """Run one part and keep its figures; tells whether all its tests passed."""
    part = parts()[name]
    fresh, report, kept = (folder / f"{name}.{suffix}" for suffix in ("new", "xml", "jsonl"))
    for path in (fresh, report):
        path.unlink(missing_ok=True)
    fresh.touch()
    command = [sys.executable, "-m", "pytest", *part.paths, "-m", part.marks, f"--junitxml={report}", *extra]
    chosen = {**part.environment, **(part.short if short else {})}
    environment = {**os.environ, **chosen, "OPTIINFRA_FIGURES": str(fresh)}
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    passed, failed = counted(report)
    head = {
        "part": name,
        "day": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "minutes": round((time.monotonic() - began) / 60),
        "short": short and bool(part.short),
        "passed": passed,
        "failed": failed or int(code != 0),
        "code": revision(),
    }
    kept.write_text(json.dumps(head) + "\n" + fresh.read_text(encoding="utf-8"), encoding="utf-8")
    fresh.unlink()
    report.unlink(missing_ok=True)
    return code == 0


def counted(report: Path) -> tuple[int, int]:
    """Return (passed, failed) of a JUnit report; skipped tests are neither, and without a report nothing passed."""
    if not report.exists():
        return 0, 0
    suites = list(ET.parse(report).iter("testsuite"))  # noqa: S314  our own pytest wrote it
    total, failed, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return total - failed - skipped, failed


def revision() -> str:
    """Name the code as git does, with a mark when it was changed since; empty outside of git.

    The page that this very program writes is no code.
    """
    page = f":(exclude){reliability.DOCUMENT.relative_to(reliability.DOCUMENT.parents[1])}"
    said, changed = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
        for words in (("describe", "--always", "--tags"), ("diff", "--quiet", "HEAD", "--", ".", page))
    )
    return said.stdout.strip() + ("-dirty" if said.returncode == 0 and changed.returncode != 0 else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were named, or all."""
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(known)}; all when none is named")
    parser.add_argument(
        "--short", action="store_true", help="one seed, a crash around every fourth write, fewer rounds of churn"
    )
    parser.add_argument("--list", action="store_true", help="say what there is")
    given, extra = parser.parse_known_args(arguments)
    if unknown := [part for part in given.parts if part not in known]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
    if given.list:
        for name, part in known.items():
            sys.stdout.write(f"{name:14} about {part.minutes:3} min  {part.what}\n")
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = given.parts or list(WHEN_SHORT if given.short else known)
    failed = [name for name in wanted if not run(name, folder=FOLDER, short=given.short, extra=extra)]
    reliability.main([str(FOLDER)])
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
