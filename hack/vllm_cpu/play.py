"""One case from the engine's start to its figures, and the comparison: before, advice, after."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hack.vllm_cpu import advice, pages
from hack.vllm_cpu.advice import Analysis, Proposal
from hack.vllm_cpu.cache import Cache
from hack.vllm_cpu.cases import Case
from hack.vllm_cpu.drive import Course, Phase, drive
from hack.vllm_cpu.errors import AdviceError
from hack.vllm_cpu.figures import Figures, figures_of
from hack.vllm_cpu.install import VERSION
from hack.vllm_cpu.server import Server

JOIN_SECONDS: Final = 45.0
"""Long enough for the pages to show a batch that grows, from which the analysis learns what a request costs."""
SETTLE_SECONDS: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line asks for."""

    seed: int
    seconds: float
    record: Path | None = None
    """Folder that keeps the pages; None: they are only analysed."""
    setting: str | None = None
    """The flag whose proposal is applied; None: the first flag's that is proposed."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One case, once."""

    case: Case
    command: tuple[str, ...]
    pages: Path | None
    """Where its pages are kept."""
    figures: Figures
    analysis: Analysis


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case before and after its advice was applied."""

    before: Seen
    proposal: Proposal
    after: Seen


def play(cache: Cache, case: Case, wishes: Wishes, *, say: Callable[[str], None], suffix: str = "") -> Seen:
    """Start the engine, offer the load, read pages, end the engine, analyse the pages."""
    name = f"vllm-{VERSION}-cpu-{case.name}{suffix}"
    dials = " ".join(f"{flag} {value}" for flag, value in case.settings.flags().items())
    say(f"{case.name}{suffix}: {case.load.clients} clients; {dials}")
    with Server(cache, case.settings, say=say) as server:
        command = tuple(server.command)
        say(
            f"{case.load.clients} clients join within {JOIN_SECONDS:.0f} s; figures of {wishes.seconds:.0f} s are taken"
        )
        course = Course(join=JOIN_SECONDS, settle=SETTLE_SECONDS, watch=wishes.seconds)
        work = drive(server.url, case.load, course, seed=wishes.seed, cpu_seconds=server.cpu_seconds)
        phase = asyncio.run(work)
    if wishes.record is not None:
        path = wishes.record / f"{name}.tar.gz"
        pages.write(path, phase.pages, prefix=f"{case.name}{suffix}")
        say(f"{len(phase.pages)} pages are in {path}")
        return _seen(case, command, phase, path, kept=path)
    with tempfile.TemporaryDirectory(prefix="optiinfra-") as folder:
        path = Path(folder) / f"{name}.tar.gz"
        pages.write(path, phase.pages, prefix=f"{case.name}{suffix}")
        return _seen(case, command, phase, path, kept=None)


def compare(cache: Cache, case: Case, wishes: Wishes, *, say: Callable[[str], None]) -> Comparison:
    """Play the case, take the operator's advice, play it again with the flag that was proposed."""
    say(f"{case.name}: {case.why}")
    before = play(cache, case, wishes, say=say, suffix="-before")
    say(f"verdict {before.analysis.verdict}, confidence {before.analysis.confidence:.2f}")
    for one in before.analysis.proposals:
        say(f"proposed: {one.setting} {one.current} -> {one.proposed} ({one.reason}) {one.message}")
    proposal = advice.choose(before.analysis, setting=wishes.setting)
    say(f"applied: {proposal.setting} {proposal.proposed}")
    settings = replace(case.settings, changed={proposal.setting: proposal.proposed})
    if settings.flags() == case.settings.flags():
        raise AdviceError(f"{proposal.setting} {proposal.proposed} is what the engine was started with")
    after = play(cache, replace(case, settings=settings), wishes, say=say, suffix="-after")
    return Comparison(before=before, proposal=proposal, after=after)


def _seen(case: Case, command: tuple[str, ...], phase: Phase, path: Path, *, kept: Path | None) -> Seen:
    return Seen(
        case=case,
        command=command,
        pages=kept,
        figures=figures_of(phase),
        analysis=advice.analyse(path, command, skip=phase.joining),
    )
