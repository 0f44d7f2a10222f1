"""The advice: what `optiinfra analyze engine` says about recorded pages, and which of it can be applied here.

The pages go through the operator's own command as a program, as any user's would; nothing is decided here. Applied is
the first proposal that is a flag of the engine's command line, in the order in which the command prints them, or the
one that the caller names. What the command refuses, or proposes for something else than a flag, is shown only.
"""

import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hack.vllm_cpu.errors import AdviceError

ANALYSIS_SECONDS: Final = 300.0
_LAST_LINES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a change is predicted to do to one signal; None where the command gives no number."""

    signal: str
    unit: str
    before: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One proposed change."""

    setting: str
    current: str
    proposed: str
    reason: str
    message: str
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the command said about one recording."""

    verdict: str
    """The last page's."""
    verdicts: tuple[tuple[str, int], ...]
    """Pages by verdict, the most frequent first; without those that were skipped."""
    confidence: float
    proposals: tuple[Proposal, ...]


def command(pages: Path, engine: Sequence[str]) -> list[str]:
    """Return the call that analyses a recording of an engine with that command line."""
    program = Path(sys.executable).with_name("optiinfra")
    return [str(program), "analyze", "engine", str(pages), "--arguments", shlex.join(engine), "--json"]


def analyse(pages: Path, engine: Sequence[str], *, skip: int) -> Analysis:
    """Ask the operator's command; its verdicts on the first `skip` pages are not counted."""
    call = command(pages, engine)
    try:
        done = subprocess.run(call, capture_output=True, timeout=ANALYSIS_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AdviceError(f"{shlex.join(call[:3])}: {error}") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").splitlines()[-_LAST_LINES:]
        raise AdviceError(f"{shlex.join(call[:3])} ended with {done.returncode}:\n  " + "\n  ".join(last))
    return read(done.stdout, skip=skip)


def read(output: bytes, *, skip: int = 0) -> Analysis:
    """Read the command's JSON; `AdviceError` where it is not what the command promises."""
    try:
        content = json.loads(output)
        pages = content["pages"]
        counted = Counter(str(page["verdict"]) for page in pages[skip:])
        return Analysis(
            verdict=str(pages[-1]["verdict"]),
            verdicts=tuple(counted.most_common()),
            confidence=float(pages[-1]["confidence"]),
            proposals=tuple(_proposal(one) for one in content["advice"] if one.get("setting") and one.get("proposed")),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise AdviceError(
            f"the analysis printed no such JSON as it promises: {type(error).__name__}: {error}"
        ) from error


def choose(analysis: Analysis, *, setting: str | None) -> Proposal:
    """Return the proposal to apply: the named one, else the first one that is a flag."""
    flags = [one for one in analysis.proposals if one.setting.startswith("--")]
    for one in flags:
        if setting is None or one.setting == setting:
            return one
    named = ", ".join(one.setting for one in flags) or "none"
    wanted = "a flag" if setting is None else setting
    raise AdviceError(f"the verdict is {analysis.verdict}, and no proposal is about {wanted}; flags proposed: {named}")


def _proposal(content: dict[str, Any]) -> Proposal:
    return Proposal(
        setting=str(content["setting"]),
        current=str(content["current"]),
        proposed=str(content["proposed"]),
        reason=str(content["reason"]),
        message=str(content.get("message", "")),
        effects=tuple(_effect(one) for one in content.get("effects", ())),
    )


def _effect(content: dict[str, Any]) -> Effect:
    numbers = {name: None if content[name] is None else float(content[name]) for name in ("before", "lower", "upper")}
    return Effect(signal=str(content["signal"]), unit=str(content["unit"]), **numbers)
