"""`python -m hack.vllm_cpu install | run | compare | clean`: a real vLLM on CPU under load, read by OptiInfra.

`run` plays one case and prints what was seen; `compare` plays a case, asks `optiinfra analyze engine` for advice,
restarts the engine with the flag that it proposes and plays the case again.
"""

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hack.cluster.errors import ClusterError
from hack.demo.errors import DemoError
from hack.vllm_cpu import leftovers, play, table
from hack.vllm_cpu.cache import Cache, default_folder
from hack.vllm_cpu.cases import CASES, COMPARED
from hack.vllm_cpu.errors import LiveError
from hack.vllm_cpu.install import install

FAILED = 1
INTERRUPTED = 130
WATCHED_SECONDS = 100.0
LONGEST_SECONDS = 900.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.vllm_cpu", description=__doc__)
    parser.add_argument("--dir", type=Path, default=default_folder(), help="the tool's own folder (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("install", help="install the engine (some gigabytes)")
    command.add_argument("--torch-index", metavar="URL", help="index that has torch's slim +cpu wheels; else PyPI's")
    for name, what in (
        ("run", "play one case, print what was seen"),
        ("compare", f"play, take the advice, play again; without --case: {' and '.join(COMPARED)}"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--case", choices=tuple(CASES), required=name == "run")
        command.add_argument("--seconds", type=_seconds, default=WATCHED_SECONDS, help="watched, a phase (%(default)g)")
        command.add_argument("--seed", type=int, default=1, help="of the load (%(default)s)")
        if name == "compare":
            command.add_argument("--setting", metavar="FLAG", help="apply the proposal about that flag; else the first")
        command.add_argument("--record", type=Path, metavar="FOLDER", help="keep the pages there, as tar.gz")
    commands.add_parser("clean", help="end what still runs, and remove the folder")
    return parser


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    # A path through a link is refused by `clean`, so links are not resolved here.
    cache = Cache(arguments.dir.expanduser().absolute())
    # SIGTERM ends things as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if arguments.command == "install":
            # A folder that is not there yet cannot be held.
            cache.claim()
        with leftovers.alone(cache):
            _perform(arguments, cache)
    except (LiveError, DemoError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the engine is ended", file=sys.stderr)
        return INTERRUPTED
    return 0


def _perform(arguments: argparse.Namespace, cache: Cache) -> None:
    if arguments.command == "install":
        install(cache, torch_index=arguments.torch_index, say=_say)
        return
    if arguments.command == "clean":
        leftovers.end(cache)
        _say(f"{cache.folder} is removed" if cache.remove() else f"nothing in {cache.folder}")
        return
    cache.demand()
    wishes = play.Wishes(seed=arguments.seed, seconds=arguments.seconds, record=arguments.record)
    if arguments.command == "run":
        seen = play.play(cache, CASES[arguments.case], wishes, say=_say)
        print(table.one(seen))
        return
    wishes = replace(wishes, setting=arguments.setting)
    for name in (arguments.case,) if arguments.case else COMPARED:
        compared = play.compare(cache, CASES[name], wishes, say=_say)
        print(f"\n{table.both(compared)}\n\n{table.predictions(compared)}\n")


def _seconds(text: str) -> float:
    value = float(text)
    if not 10.0 <= value <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{value:g} is not within 10 and {LONGEST_SECONDS:g}")
    return value


def _say(text: str) -> None:
    print(f"* {text}", flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
