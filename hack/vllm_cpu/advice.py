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
class Proposal:
    """One proposed change."""

    setting: str
    current: str
    proposed: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the command said about one recording."""

    verdict: str
    """The last page's."""
    verdicts: tuple[tuple[str, int], ...]
    """Pages by verdict, the most frequent first."""
    confidence: float
    proposals: tuple[Proposal, ...]


def command(pages: Path, engine: Sequence[str]) -> list[str]:
    """Return the call that analyses a recording of an engine with that command line."""
    program = Path(sys.executable).with_name("optiinfra")
    return [str(program), "analyze", "engine", str(pages), "--arguments", shlex.join(engine), "--json"]


def analyse(pages: Path, engine: Sequence[str]) -> Analysis:
    """Ask the operator's command."""
    call = command(pages, engine)
    try:
        done = subprocess.run(call, capture_output=True, timeout=ANALYSIS_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AdviceError(f"{shlex.join(call[:3])}: {error}") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").splitlines()[-_LAST_LINES:]
        raise AdviceError(f"{shlex.join(call[:3])} ended with {done.returncode}:\n  " + "\n  ".join(last))
    return read(done.stdout)


def read(output: bytes) -> Analysis:
    """Read the command's JSON; `AdviceError` where it is not what the command promises."""
    try:
        content = json.loads(output)
        pages = content["pages"]
        counted = Counter(str(page["verdict"]) for page in pages)
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
    )
