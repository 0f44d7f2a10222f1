"""What this machine looks like from outside of the node, written down before it starts and compared after it has ended.

By construction nothing of it changes (see `inside`); this is the check that it did not. Others may use the machine at
the same time, so a difference is named and not undone. Only what a node could leave behind is looked at.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Container
from pathlib import Path

from hack.node import cgroups
from hack.node.plan import EXACT

_SETTINGS = (
    *EXACT,
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all/route_localnet",
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/netfilter/nf_conntrack_max",
)
_FOLDERS = (
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/var/lib/containers",
    "/var/log/pods",
    "/var/log/containers",
    "/run/containerd",
    "/run/netns",
    "/etc/cni",
    "/opt/cni",
    "/etc/containerd",
    "/usr/bin/containerd",
    "/usr/bin/runc",
)
_GROUPS = "control groups"
_PROGRAMS = re.compile(r"^(kubelet|kube-proxy|containerd|containerd-shim.*|runc|buildah)$")
_LIFETIMES = re.compile(r"\s+valid_lft.*$", re.MULTILINE)
_SECONDS = 20.0

Look = dict[str, list[str]]


def look() -> Look:
    """Return everything that a node could leave behind, by its kind, as sorted lines."""
    return {
        "interfaces": _ip("-oneline", "link", "show"),
        "addresses": _ip("-oneline", "address", "show"),
        "routes": [*_ip("-4", "route", "show", "table", "all"), *_ip("-6", "route", "show", "table", "all")],
        "rules": _ip("rule", "show"),
        "packet filters": _filters(),
        "mounts": _lines(Path("/proc/self/mounts")),
        _GROUPS: sorted(str(path) for tree in cgroups.hierarchies() for path in _folders(tree.folder)),
        "settings": [f"{name} = {Path(name).read_text().strip()}" for name in _SETTINGS if Path(name).exists()],
        "folders": [name for name in _FOLDERS if Path(name).exists()],
        "processes": _processes(),
    }


def keep(path: Path) -> None:
    """Write down what the machine looks like now."""
    path.write_text(json.dumps(look(), indent=1), encoding="utf-8")


def compare(path: Path, *, others: Container[str] = ()) -> tuple[dict[str, int], list[str]]:
    """Return how many things are as they were, by kind, and in words what is not.

    `others` are control groups, by name, of nodes that run beside this one: they come and go as they like.
    """
    before: Look = json.loads(path.read_text(encoding="utf-8"))
    after = look()
    for seen in (before, after):
        if _GROUPS in seen:
            seen[_GROUPS] = [line for line in seen[_GROUPS] if Path(line).name not in others]
    same = {kind: len(set(lines) & set(after[kind])) for kind, lines in before.items()}
    differences = [f"{kind}: new: {line}" for kind in before for line in after[kind] if line not in before[kind]]
    differences += [f"{kind}: gone: {line}" for kind in before for line in before[kind] if line not in after[kind]]
    return same, differences


def _ip(*arguments: str) -> list[str]:
    if shutil.which("ip") is None:
        return []
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)
    # Counters of life times and queues change by themselves.
    return sorted(line.strip() for line in _LIFETIMES.sub("", done.stdout).splitlines())


def _filters() -> list[str]:
    if shutil.which("nft"):
        done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=_SECONDS, check=False)
        return sorted(done.stdout.splitlines())
    # Without the program only tables of the older kind show.
    names = ("ip_tables_names", "ip6_tables_names")
    return sorted(line for name in names for line in _lines(Path("/proc/net") / name))


def _lines(path: Path) -> list[str]:
    try:
        return sorted(path.read_text(encoding="utf-8").splitlines())
    except OSError:
        return []


def _folders(tree: Path) -> list[Path]:
    return [path for path in tree.iterdir() if path.is_dir()]


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue  # it has ended in the meantime
        if _PROGRAMS.fullmatch(name):
            found.append(f"{name} {path.parent.name}")
    return sorted(found)
