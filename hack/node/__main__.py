"""`python -m hack.node check|up|down|status|run|load`: a real Kubernetes node on this machine, as root."""

import argparse
import sys
import time
from pathlib import Path

from hack.binaries import BinaryError
from hack.cluster.errors import ClusterError
from hack.cluster.nodes import Node
from hack.images import build
from hack.node import trial
from hack.node.cluster import NodeCluster, default_folder

CANNOT = 3
"""Exit code of `check` where there can be no node."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "check": "fetch what a node and its images need and try one; 3 and the reason where there can be none",
        "up": "start a control plane and the node",
        "down": "end both, remove their state, and say what of the machine is as it was",
        "status": "say what runs",
        "load": "bring images into the node",
        "run": "run a program in the node's namespaces",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        if name == "check":
            command.add_argument("--base", default=build.DEBIAN, help="of the images (%(default)s)")
            command.add_argument("--seconds", type=float, default=trial.SECONDS, help="at most (%(default).0f)")
            continue
        command.add_argument("--dir", type=Path, default=default_folder(), help="state directory (%(default)s)")
        if name == "up":
            command.add_argument("--simulated", type=int, default=0, help="KWOK nodes beside it (%(default)s)")
            command.add_argument("--metrics-server", action="store_true", help="serve metrics.k8s.io, for HPAs on CPU")
            command.add_argument("--audit", action="store_true", help="write an audit log")
        if name == "down":
            command.add_argument("--keep", action="store_true", help="keep the state directory")
        if name == "load":
            command.add_argument("archives", type=Path, nargs="+", help="docker or OCI archives")
        if name == "run":
            command.add_argument("program", nargs=argparse.REMAINDER, help="an absolute path and its arguments")
    return parser


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    try:
        match arguments.command:
            case "check":
                return _check(arguments.base, arguments.seconds)
            case "up":
                return _up(arguments)
            case "down":
                return _down(arguments.dir, keep=arguments.keep)
            case "load":
                for archive in arguments.archives:
                    NodeCluster.attach(arguments.dir).load(archive)
            case "run":
                print(NodeCluster.attach(arguments.dir).run(*arguments.program), end="")
            case _:
                return _status(arguments.dir)
    except (ClusterError, BinaryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check(base: str, seconds: float) -> int:
    reason = trial.obstacle(base=base, say=lambda text: print(text, flush=True), seconds=seconds)
    print(f"no real node here: {reason}" if reason else "a real node can run here", flush=True)
    return CANNOT if reason else 0


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = NodeCluster(
        arguments.dir,
        simulated=[Node(name=f"gpu-{number}", taint=True) for number in range(1, arguments.simulated + 1)],
        metrics_server=arguments.metrics_server,
        audit=arguments.audit,
        say=lambda text: print(text, flush=True),
    )
    cluster.up()
    print(f"up in {time.monotonic() - started:.1f} s; look around with:")
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    print(f"  {cluster.binary('kubectl')} get nodes --output wide")
    return 0


def _down(folder: Path, *, keep: bool) -> int:
    started = time.monotonic()
    cluster = NodeCluster(folder)
    if not cluster.down(keep=keep):
        print(f"nothing to end in {folder}")
        return 0
    print(f"down in {time.monotonic() - started:.1f} s")
    print("as before: " + ", ".join(f"{count} {kind}" for kind, count in cluster.as_before.items()))
    for line in cluster.left:
        print(f"NOT as before: {line}")
    return int(bool(cluster.left))


def _status(folder: Path) -> int:
    states = NodeCluster(folder).status()
    for name, alive in states.items():
        print(f"{name:<24} {'runs' if alive else 'ended'}")
    if not states:
        print(f"no node in {folder}")
    return 0 if states and all(states.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
