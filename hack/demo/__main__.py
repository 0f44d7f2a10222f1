"""`python -m hack.demo [--keep]` plays the demonstration; `python -m hack.demo down` ends one that was left up."""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from hack.binaries import BinaryError, ensure
from hack.cluster import Cluster, ClusterError
from hack.cluster.processes import Process, identity_of
from hack.demo import report
from hack.demo.comparison import compare
from hack.demo.errors import DemoError
from hack.demo.play import Play
from hack.demo.ports import PortWishes, choose
from hack.demo.programs import stop_recorded
from hack.demo.stage import BUSY, ROOT, SCENARIO, Stage
from hack.demo.table import Screen
from hack.demo.verdict import judge
from optiinfra_sim.errors import SimulatorError

DEFAULT_FOLDER = ROOT / ".demo"
MARK = "demonstration.json"
LOG_WIDTH = 140
FAILED = 1
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("play", "down"), default="play")
    parser.add_argument("--keep", action="store_true", help="leave everything up at the end")
    parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, help="state directory (%(default)s)")
    for name, what in (("engine", "simulated engines"), ("agent", "simulated agents"), ("control", "the simulator")):
        parser.add_argument(
            f"--{name}-port", type=int, metavar="N", help=f"port of {what}; else the usual or a free one"
        )
    return parser


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    folder: Path = arguments.dir.absolute()
    # SIGTERM (a CI job that is cancelled) ends things as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if arguments.command == "down":
            print("down" if clean(folder) else f"nothing to end in {folder}")
            return 0
        wishes = PortWishes(engine=arguments.engine_port, agent=arguments.agent_port, control=arguments.control_port)
        return play(folder, wishes=wishes, keep=arguments.keep)
    except (DemoError, ClusterError, BinaryError, SimulatorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; everything that was started is ended", file=sys.stderr)
        return INTERRUPTED


def play(folder: Path, *, wishes: PortWishes, keep: bool) -> int:
    """Play it once; return the exit code."""
    console = _console()
    screen = Screen(console)
    if clean(folder):
        screen.say("an earlier demonstration was still up; it is ended")
    ports = choose(wishes, say=screen.say)
    ensure(["helm"])
    _mark(folder)
    stage = Stage(folder, ports, say=screen.say, keep=keep)
    finished = good = False
    try:
        screen.say(f"shortened for the demonstration: {'; '.join(report.shortenings())}")
        stage.up()
        with screen:
            history = Play(stage, show=screen.show, say=screen.say).perform()
        facts = report.gather(stage, node=socket.gethostname(), cpus=os.cpu_count() or 0)
        checks = judge(history, facts)
        compared = compare(SCENARIO, service=BUSY, record=stage.record)
        report.print_end(console, stage=stage, history=history, facts=facts, checks=checks, comparison=compared)
        finished, good = True, all(check.holds for check in checks)
    finally:
        if not (keep and finished):
            _end(stage, forget=good)
    _last_words(console, stage, keep=keep, good=good)
    return 0 if good else FAILED


def _console() -> Console:
    """A log has no width; without one its tables would be squeezed into 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def _end(stage: Stage, *, forget: bool) -> None:
    """End everything; a second Ctrl-C must not leave half of it behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stage.down()
    if forget:
        shutil.rmtree(stage.folder)


def _last_words(console: Console, stage: Stage, *, keep: bool, good: bool) -> None:
    console.rule("how to look around" if keep else "the end")
    if keep:
        for text in report.how_to_look(stage, command=f"{sys.executable} -m hack.demo down --dir {stage.folder}"):
            console.print(escape(text), soft_wrap=True, highlight=False)
    else:
        console.print("everything that was started is ended; `make demo KEEP=1` leaves it up to look around")
    if not good:
        console.print(f"[bold red]not everything happened[/bold red]; logs: {stage.programs.folder}", soft_wrap=True)


def clean(folder: Path) -> bool:
    """End what an earlier demonstration left in that folder, and empty it; False when there was nothing."""
    if not (folder / MARK).exists():
        if folder.exists() and any(folder.iterdir()):
            raise DemoError(f"{folder} is not empty and not of a demonstration: choose another --dir")
        return False
    owner = _owner(folder)
    if owner.alive and owner.pid != os.getpid():
        raise DemoError(f"a demonstration plays in {folder} already (pid {owner.pid}): wait for its end, or use --dir")
    programs = stop_recorded(folder / "programs")
    cluster = Cluster(folder / "cluster").down()
    shutil.rmtree(folder)
    return bool(programs or cluster)


def _mark(folder: Path) -> None:
    """Say whose folder it is: a demonstration that plays must not be ended by the next one."""
    folder.mkdir(mode=0o700, parents=True)
    identity = identity_of(os.getpid())
    assert identity is not None
    owner = Process(name="demonstration", pid=os.getpid(), identity=identity)
    (folder / MARK).write_text(json.dumps(asdict(owner)))


def _owner(folder: Path) -> Process:
    content = json.loads((folder / MARK).read_text())
    return Process(name=content["name"], pid=content["pid"], identity=content["identity"])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
