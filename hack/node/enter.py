"""Starts one program in the namespaces of a node: `python -m hack.node.enter PID WHERE LOG PROGRAM [ARGUMENT ...]`.

WHERE is `node`, everything that is the node's, or `network`, for what belongs to the control plane and shares only the
node's addresses. LOG is a file for its output; `-` keeps the streams of the caller and waits for the end of the
program. Prints the program's pid, as this machine sees it, and leaves it behind.
"""

import os
import sys
from pathlib import Path

from hack.node import system_calls as kernel
from hack.node.cgroups import LEAF, Hierarchy, hierarchies

NODE = "node"
NETWORK = "network"
_NAMESPACES = {NODE: ("cgroup", "ipc", "uts", "net", "pid", "mnt"), NETWORK: ("net",)}
"""Mounts come last: the others are found in this machine's /proc."""


def main() -> int:
    """Start it."""
    _, first, where, log, *command = sys.argv
    if where == NODE:
        _join_groups_of(int(first), hierarchies())
    for kind in _NAMESPACES[where]:
        # Of the mount namespace only what is opened afterwards is another one.
        kernel.enter(Path("/proc") / first / "ns" / kind)
    if where == NODE:
        os.chdir("/")
    pid = os.fork()
    if pid == 0:
        if log != "-":
            os.setsid()
            _redirect(Path(log))
        os.execv(command[0], command)  # noqa: S606  a program of ours with arguments of ours; no shell
    if log == "-":
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(pid)
    return 0


def _join_groups_of(pid: int, trees: tuple[Hierarchy, ...]) -> None:
    """Go into the groups of the node's first process, where what its children use is counted."""
    of = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        of[names] = path
    for tree in trees:
        names = tree.options.removeprefix("none,")
        group = tree.folder / of[names].lstrip("/")
        assert not tree.is_v2 or group.name == LEAF
        (group / "cgroup.procs").write_text("0", encoding="utf-8")


def _redirect(log: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(1, 2)


if __name__ == "__main__":
    sys.exit(main())
