"""`python -m hack.cluster up|down|status`: a control plane to look around in."""

import argparse
import sys
import time
from pathlib import Path

from hack.binaries import BinaryError
from hack.cluster.cluster import Cluster, default_folder
from hack.cluster.errors import ClusterError
from hack.cluster.nodes import DEFAULT_NODES, Node


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {"up": "start it", "down": "end it and remove its state", "status": "say what runs"}
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--dir", type=Path, default=default_folder(), help="state directory (%(default)s)")
        if name == "up":
            command.add_argument(
                "--nodes", type=int, default=len(DEFAULT_NODES), help="simulated GPU nodes (%(default)s)"
            )
            command.add_argument("--gpus", type=int, default=8, help="GPUs of each node (%(default)s)")
            command.add_argument("--no-kwok", action="store_true", help="no simulated nodes and pods")
            command.add_argument("--no-controllers", action="store_true", help="etcd and kube-apiserver only")
            command.add_argument("--audit", action="store_true", help="write an audit log")
        if name == "down":
            command.add_argument("--keep", action="store_true", help="keep the state directory")
    return parser


def main() -> int:
    """Run one command."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "up":
            return _up(arguments)
        if arguments.command == "down":
            found = Cluster(arguments.dir).down(keep=arguments.keep)
            print("down" if found else f"nothing to end in {arguments.dir}")
            return 0
        return _status(arguments.dir)
    except (ClusterError, BinaryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = Cluster(
        arguments.dir,
        controllers=not arguments.no_controllers,
        kwok=not arguments.no_kwok,
        nodes=[Node(name=f"gpu-{number}", gpus=arguments.gpus) for number in range(1, arguments.nodes + 1)],
        audit=arguments.audit,
        say=lambda text: print(text, flush=True),
    )
    cluster.up()
    print(f"up in {time.monotonic() - started:.1f} s; look around with:")
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    print(f"  {cluster.binaries['kubectl']} get nodes")
    return 0


def _status(folder: Path) -> int:
    states = Cluster(folder).status()
    for name, alive in states.items():
        print(f"{name:<24} {'runs' if alive else 'ended'}")
    if not states:
        print(f"no cluster in {folder}")
    return 0 if states and all(states.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
