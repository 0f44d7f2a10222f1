"""The first process of a node: makes its namespaces, lays out its mounts and its network, and collects dead children.

Started as a program with the path of a plan; prints the pid of the node's first process once the node is laid out. All
of it ends when that process is killed: the kernel then ends every other process of the namespace, and mounts,
addresses, routes and rules go with the last of them. That is why nothing here is ever undone.

Order matters: the control groups are joined before the cgroup namespace is made, whose root they become; and /proc is
mounted by the child, whose process namespace it is to show.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from hack.node import system_calls as kernel
from hack.node.cgroups import LEAF, hand_on
from hack.node.plan import EXACT, HIDDEN, KEPT, Kept, Plan

_GROUPS = Path("/sys/fs/cgroup")
_NAMESPACES = kernel.NEW_MOUNTS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_HOST_NAME | kernel.NEW_PROCESSES
_PLAIN = kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC


def main() -> int:
    """Make the node and leave its first process behind."""
    plan = Plan.read(Path(sys.argv[1]))
    _join_groups(plan)
    kernel.unshare(_NAMESPACES)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as answer:
            complaint = answer.read()
        if complaint:
            print(complaint.strip(), file=sys.stderr)
            return 1
        print(pid)
        return 0
    os.close(reading)
    with os.fdopen(writing, "w") as answer:
        try:
            os.setsid()
            _lay_out(plan)
            _forget_streams(Path(plan.folder) / "logs" / "first-process.log")
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            answer.write(f"{error}{_output_of(error)}")
            return 1
    _collect_children()
    return 0


def _join_groups(plan: Plan) -> None:
    """Go into the node's groups, make them the root of what is seen, and with version 2 go on into the leaf."""
    groups = [(Path(folder) / plan.group, options) for folder, options in plan.trees]
    for group, _ in groups:
        (group / "cgroup.procs").write_text("0", encoding="utf-8")
    kernel.unshare(kernel.NEW_CGROUP)
    for group, options in groups:
        if not options:
            (group / LEAF / "cgroup.procs").write_text("0", encoding="utf-8")
            hand_on(group)


def _lay_out(plan: Plan) -> None:
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    kernel.set_host_name(plan.host_name)
    folder = Path(plan.folder)
    # Laid over before /var/lib is hidden: the unpacked packages may lie anywhere else.
    kernel.mount("overlay", "/usr", "overlay", flags=kernel.READ_ONLY, options=f"lowerdir={plan.tools}/usr:/usr")
    for hidden in HIDDEN:
        kernel.mount("tmpfs", hidden, "tmpfs", flags=kernel.NO_SUID | kernel.NO_DEVICES, options="mode=755,size=64m")
    for path in KEPT:
        Path(path).mkdir(parents=True, exist_ok=True)
        kernel.mount(Kept(folder).of(path), path, flags=kernel.BIND)
    kernel.mount("proc", "/proc", "proc", flags=_PLAIN)
    _show_exact_values(folder)
    kernel.mount("sysfs", "/sys", "sysfs", flags=_PLAIN)
    _mount_groups(plan)
    # Mounts of volumes have to reach the containers; the kubelet and containerd share them below this root.
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.SHARED)
    _lay_out_network(plan)


def _show_exact_values(folder: Path) -> None:
    shown = folder / "node" / "shown"
    shown.mkdir(parents=True, exist_ok=True)
    for name, value in EXACT.items():
        if Path(name).exists():
            file = shown / name.rpartition("/")[2]
            file.write_text(f"{value}\n", encoding="utf-8")
            kernel.mount(file, name, flags=kernel.BIND)


def _mount_groups(plan: Plan) -> None:
    if all(not options for _, options in plan.trees):
        kernel.mount("cgroup2", _GROUPS, "cgroup2", flags=_PLAIN)
        return
    kernel.mount("tmpfs", _GROUPS, "tmpfs", flags=_PLAIN, options="mode=755")
    for folder, options in plan.trees:
        tree = _GROUPS / Path(folder).name
        tree.mkdir()
        kernel.mount("cgroup", tree, "cgroup", flags=_PLAIN, options=options)
        for controller in options.split(",") if "," in options and not options.startswith("none") else ():
            (_GROUPS / controller).symlink_to(tree.name)


def _lay_out_network(plan: Plan) -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "add", plan.bridge, "type", "bridge")
    _ip("address", "add", plan.address, "dev", plan.bridge)
    _ip("link", "set", plan.bridge, "up")
    # Nothing is behind it: addresses of Services are turned into those of pods before a packet gets that far.
    _ip("route", "add", "default", "dev", plan.bridge)
    for network in plan.local:
        _ip("route", "add", "local", network, "dev", "lo")
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        file = Path("/proc/sys") / name  # both belong to the network namespace
        if file.exists():
            file.write_text("1", encoding="utf-8")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def _output_of(error: Exception) -> str:
    return f": {error.stderr.strip()}" if isinstance(error, subprocess.CalledProcessError) else ""


def _forget_streams(log: Path) -> None:
    """Let go of whoever started this, who would otherwise wait for the end of our output."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(log, os.O_WRONLY | os.O_CREAT))):
        os.dup2(descriptor, number)
    os.dup2(1, 2)


def _collect_children() -> None:
    """Collect for ever: in a process namespace all orphans become children of its first process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


if __name__ == "__main__":
    sys.exit(main())
