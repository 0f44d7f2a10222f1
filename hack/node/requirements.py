"""What a machine has to have for a node, said before anything is touched."""

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from hack.node.cgroups import NEEDED, controllers, hierarchies, keeps_to_itself
from hack.node.plan import HIDDEN

_ADMINISTRATION = 21
"""CAP_SYS_ADMIN (linux/capability.h)."""
_NETWORK = 12
"""CAP_NET_ADMIN."""
_PROGRAMS = ("apt-get", "dpkg-deb")
_FILE_SYSTEMS = ("overlay", "tmpfs")
ELSEWHERE = (
    "without a real node: `python -m hack.cluster up` (no root, simulated nodes); "
    "with one in containers: kind (https://kind.sigs.k8s.io), see docs/how-to/develop.md"
)


def unmet(folders: Sequence[Path] = ()) -> list[str]:
    """Return, in words, what this machine lacks for a node with its files in `folders`; empty where it can work."""
    missing = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        missing.append(f"Linux on x86_64 is needed, this is {platform.system()} on {platform.machine()}")
        return missing
    if os.geteuid():
        missing.append("root is needed, for mounts, namespaces and control groups")
    rights = _capabilities()
    if not (rights >> _ADMINISTRATION & 1 and rights >> _NETWORK & 1):
        missing.append("CAP_SYS_ADMIN and CAP_NET_ADMIN are needed, which a container has only when it is privileged")
    missing += [
        f"{name} is needed: only Debian and Ubuntu are supported" for name in _PROGRAMS if not shutil.which(name)
    ]
    if not Path("/bin").is_symlink():
        missing.append("a merged /usr is needed (Debian 12 and Ubuntu 22.04 have it)")
    known = Path("/proc/filesystems").read_text(encoding="utf-8").split()
    missing += [f"the kernel has no {each}" for each in _FILE_SYSTEMS if each not in known]
    missing += _groups()
    missing += [
        f"{folder} lies below {hidden}, which a node does not see: choose another --dir or OPTIINFRA_CACHE"
        for folder in folders
        for hidden in HIDDEN
        if folder.resolve().is_relative_to(hidden)
    ]
    return missing


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _groups() -> list[str]:
    trees = hierarchies()
    if not trees:
        return ["no control groups are mounted at /sys/fs/cgroup"]
    lacking = [name for name in NEEDED if name not in controllers(trees)]
    if lacking:
        return [f"control groups without {', '.join(lacking)}"]
    closed = [str(tree.folder) for tree in trees if not os.access(tree.folder, os.W_OK)]
    if closed:
        return [f"control groups may not be made in {closed[0]}"]
    return [reason for tree in trees if tree.is_v2 and (reason := keeps_to_itself(tree))]
