"""Programs from Debian's or Ubuntu's packages, unpacked into the cache: nothing is installed, no service is started.

apt decides which packages are missing on this machine and fetches them, signatures checked, with the machine's own
sources; `dpkg-deb` unpacks them side by side into one folder, which a mount namespace then lays over /usr. Maintainer
scripts are not run. What is in the folder belongs to the packages that the machine had at that time: it is made again
when the list of wanted packages changes, or by removing the folder.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hack.binaries.find import cache_folder
from hack.cluster.errors import ClusterError

NODE = ("containerd", "runc", "containernetworking-plugins", "nftables", "iproute2")
IMAGES = ("buildah", "mmdebstrap", "runc", "containernetworking-plugins")
"""runc, because a package has to be there that can run containers; buildah is not let use it."""
FETCH_SECONDS = 300.0
ANSWER_SECONDS = 15
"""For a mirror to say something; where none can be reached, that is to be known soon."""
_LINKED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links into /usr on these systems, while their packages still name them."""
_DONE = ".complete"

Say = Callable[[str], None]


def tools(wanted: Sequence[str], *, say: Say) -> Path:
    """Return the folder with the unpacked packages and whatever they need that this machine has not."""
    digest = hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:12]
    target = cache_folder(os.environ).parent / "packages" / digest
    if (target / _DONE).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="scratch-") as scratch:
        fetched = _fetch(wanted, Path(scratch), say=say)
        fresh = Path(scratch) / "root"
        (fresh / "usr").mkdir(parents=True)
        for package in fetched:
            _run(["dpkg-deb", "--extract", str(package), str(fresh)], what=f"unpacking {package.name}")
        _gather(fresh)
        (fresh / _DONE).write_text("\n".join(each.name for each in fetched) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    return target


def _fetch(wanted: Sequence[str], scratch: Path, *, say: Say) -> list[Path]:
    archives = scratch / "archives"
    (archives / "partial").mkdir(parents=True)
    command = ["apt-get", "install", "--download-only", "--yes", "--no-install-recommends", "--quiet=2"]
    options = [f"-oAcquire::{kind}::Timeout={ANSWER_SECONDS}" for kind in ("http", "https")]
    options += [f"-oDir::Cache::archives={archives}", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=root"]
    say(f"  fetching {', '.join(wanted)} and what they need by apt")
    try:
        _run([*command, *options, *wanted], what="apt-get")
    except ClusterError as error:
        # Its lists may be older than what its sources still have.
        say(f"  {error}; looking again with fresh lists of packages")
        lists = scratch / "lists"
        (lists / "partial").mkdir(parents=True)
        options.append(f"-oDir::State::lists={lists}")
        _run(["apt-get", "update", "--quiet=2", *options], what="apt-get update")
        _run([*command, *options, *wanted], what="apt-get")
    return sorted(archives.glob("*.deb"))


def _gather(root: Path) -> None:
    """Move what packages put beside /usr to where this machine has it."""
    for name in _LINKED:
        source = root / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(source)


def _run(command: Sequence[str], *, what: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{what}: not finished after {FETCH_SECONDS:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ClusterError(f"{what} failed: {' '.join(last) or f'it ended with {done.returncode}'}")
