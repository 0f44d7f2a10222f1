"""The namespaces of one node from outside: made here, programs started in them, files carried in.

What is started in the node belongs to its process namespace and ends with the node's first process, whatever it is.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster import processes
from hack.cluster.errors import ClusterError
from hack.node.enter import NETWORK, NODE
from hack.node.plan import KEPT, Kept, Plan

ROOT = Path(__file__).resolve().parents[2]
FIRST = "first-process"
RELAY = "relay"
START_SECONDS = 60.0
RUN_SECONDS = 300.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_OWN_NETWORKS = "127.0.0.0/8,10.88.0.0/15,10.96.0.0/16,localhost,.svc,.cluster.local"


def make(plan: Plan, *, logs: Path) -> processes.Process:
    """Make the namespaces; return the process that holds them."""
    path = Path(plan.folder) / "plan.json"
    plan.write(path)
    for kept in KEPT:
        Kept(Path(plan.folder)).of(kept).mkdir(mode=0o755, parents=True, exist_ok=True)
    pid = int(_told([sys.executable, "-m", "hack.node.inside", str(path)], what="the node's namespaces"))
    identity = processes.identity_of(pid)
    if identity is None:
        raise ClusterError(f"the node's first process ended at once; {processes.last_words(logs / f'{FIRST}.log')}")
    return processes.Process(name=FIRST, pid=pid, identity=identity)


def relay(first: processes.Process, port: int, *, log: Path) -> processes.Process:
    """Make a port of the node's network reachable on this machine's loopback."""
    command = ["/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "hack.node.relay", str(first.pid), str(port)]
    return processes.start(RELAY, command, log=log)


def start(first: processes.Process, name: str, command: Sequence[str], *, where: str, log: Path) -> processes.Process:
    """Start a program in the node, or only in its network."""
    pid = int(_told(_entering(first, where, str(log), command), what=f"starting {name}", where=where))
    identity = processes.identity_of(pid)
    if identity is None:
        raise ClusterError(f"{name} ended at once; {processes.last_words(log)}")
    return processes.Process(name=name, pid=pid, identity=identity)


def run(first: processes.Process, command: Sequence[str], *, text: str | None = None) -> str:
    """Run a program in the node to its end and return what it prints; raise ClusterError when it fails."""
    return _told(_entering(first, NODE, "-", command), what=command[0], where=NODE, text=text, seconds=RUN_SECONDS)


def _entering(first: processes.Process, where: str, log: str, command: Sequence[str]) -> list[str]:
    if not first.alive:
        raise ClusterError("the node has ended")
    return [sys.executable, "-m", "hack.node.enter", str(first.pid), where, log, *command]


def _told(
    command: Sequence[str],
    *,
    what: str,
    where: str = NETWORK,
    text: str | None = None,
    seconds: float = START_SECONDS,
) -> str:
    environment = dict(os.environ)
    if where == NODE:
        environment = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    environment["NO_PROXY"] = environment["no_proxy"] = _OWN_NETWORKS
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{what}: not done after {seconds:.0f} s") from error
    if done.returncode:
        raise ClusterError(f"{what}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
