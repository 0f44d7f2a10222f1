"""The control groups of one node: made before it starts, removed after it has ended. Versions 1, 2 and both at once.

The node gets one group in every hierarchy and is put into a cgroup namespace whose root that group is, so that it sees
what a machine of its own would show. With version 1 the groups lie side by side in one folder a controller; with
version 2 there is one tree, in which a group that hands controllers on may hold no process itself: those of the node
itself live in a leaf.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/sys/fs/cgroup")
LEAF = "node"
NEEDED = ("cpu", "cpuset", "memory", "pids")
"""Without one of these the kubelet does not start."""
REMOVAL_SECONDS = 20.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree of control groups."""

    folder: Path
    """Where this machine has it mounted."""
    options: str
    """How to mount it again: `cpu,cpuacct`, `none,name=systemd`, or empty for version 2."""

    @property
    def is_v2(self) -> bool:
        """Whether it is the tree of version 2."""
        return not self.options


def hierarchies(mounts: str | None = None) -> tuple[Hierarchy, ...]:
    """Return the trees that a node needs, from the text of /proc/self/mounts.

    Where version 1 has the controllers, a tree of version 2 beside it (systemd's "hybrid") holds none, and is left out.
    """
    text = Path("/proc/self/mounts").read_text(encoding="utf-8") if mounts is None else mounts
    first, second = [], []
    for line in text.splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup":
            names = [each for each in options.split(",") if not _is_general(each)]
            chosen = ["none", *names] if names and names[0].startswith("name=") else names
            first.append(Hierarchy(Path(folder), ",".join(chosen)))
        elif kind == "cgroup2":
            second.append(Hierarchy(Path(folder), ""))
    return tuple(first or second[:1])


def controllers(trees: tuple[Hierarchy, ...]) -> set[str]:
    """Return the controllers that can be had in these trees."""
    found: set[str] = set()
    for tree in trees:
        if tree.is_v2:
            found |= set((tree.folder / "cgroup.controllers").read_text(encoding="utf-8").split())
        else:
            found |= set(tree.options.split(","))
    return found


def make(trees: tuple[Hierarchy, ...], name: str) -> None:
    """Make the node's group in each tree."""
    for tree in trees:
        group = tree.folder / name
        group.mkdir(exist_ok=True)
        if tree.is_v2:
            # The node's own group hands them on when its first process has gone into the leaf.
            hand_on(tree.folder)
            (group / LEAF).mkdir(exist_ok=True)
        elif "cpuset" in tree.options.split(","):
            # An empty set of processors takes no process.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((tree.folder / file).read_text(encoding="utf-8"), encoding="utf-8")


def remove(trees: tuple[Hierarchy, ...], name: str) -> int:
    """End what is left in the node's groups and remove them; return how many groups there were.

    Raises TimeoutError when a group stays busy.
    """
    return sum(_remove(tree.folder / name) for tree in trees)


def present(trees: tuple[Hierarchy, ...], name: str) -> list[Path]:
    """Return the node's groups that are there."""
    return [tree.folder / name for tree in trees if (tree.folder / name).is_dir()]


def keeps_to_itself(tree: Hierarchy) -> str:
    """Return in words why a tree of version 2 cannot hand its controllers on, or nothing where it can.

    What is mounted may not be the root of the tree but the group of a container, and a group that holds processes hands
    no controllers on (cgroup-v2.rst, "No Internal Process Constraint"). Whose processes they are is not known here, so
    they are not moved away.
    """
    given = (tree.folder / "cgroup.subtree_control").read_text(encoding="utf-8").split()
    lacking = [name for name in NEEDED if name not in given]
    is_root = not (tree.folder / "cgroup.type").exists()
    if is_root or not lacking or not _processes(tree.folder):
        return ""
    return (
        f"{tree.folder} is the group of a container and holds its processes, so that it hands {', '.join(lacking)} "
        "on to no group below: start the container with --cgroupns=host, or move its processes to a group below"
    )


def hand_on(group: Path) -> None:
    """Give the controllers of version 2 on to the groups below."""
    offered = (group / "cgroup.controllers").read_text(encoding="utf-8").split()
    given = (group / "cgroup.subtree_control").read_text(encoding="utf-8").split()
    missing = [f"+{each}" for each in offered if each not in given]
    if missing:
        (group / "cgroup.subtree_control").write_text(" ".join(missing), encoding="utf-8")


def _remove(group: Path) -> int:
    count = 0
    deadline = time.monotonic() + REMOVAL_SECONDS
    while group.is_dir():
        for folder in _deepest_first(group):
            for pid in _processes(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):  # busy until its last process has been collected: tried again below
                folder.rmdir()
                count += 1
        if group.is_dir():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{group} is still in use by {_processes(group) or 'nobody that shows'}")
            time.sleep(_POLL_SECONDS)
    return count


def _deepest_first(group: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def _processes(group: Path) -> list[int]:
    try:
        return [int(word) for word in (group / "cgroup.procs").read_text(encoding="utf-8").split()]
    except OSError:
        return []


def _is_general(option: str) -> bool:
    """Whether a mount option is of mounts in general, and names no controller."""
    word = option.partition("=")[0]
    return word in {
        "rw",
        "ro",
        "nosuid",
        "nodev",
        "noexec",
        "relatime",
        "noatime",
        "xattr",
        "release_agent",
        "clone_children",
    }
