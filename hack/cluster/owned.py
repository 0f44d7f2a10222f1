"""Signs of owned clusters that lie outside the folder of test sessions, such as in a test's own temporary folder.

A run that is killed leaves its clusters running, and the next run looks for them in one place only. So each owned
cluster that starts elsewhere leaves a link there, which goes with it. A link is a hint and no record: what it leads to
decides, and one that leads nowhere is removed.
"""

import contextlib
import hashlib
from pathlib import Path

from hack.binaries import bin_folder


def sessions() -> Path:
    """Return the folder in which test sessions have their clusters."""
    return bin_folder().parent / "sessions"


def sign(folder: Path, *, parent: Path | None = None) -> None:
    """Leave a link to an owned cluster; none is needed inside the folder of sessions."""
    folder, where = folder.resolve(), parent or sessions()
    if folder.parent == where.resolve():
        return
    where.mkdir(parents=True, exist_ok=True)
    link = _link(folder, where)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)


def unsign(folder: Path, *, parent: Path | None = None) -> None:
    """Remove the link, if there is one."""
    _link(folder.resolve(), parent or sessions()).unlink(missing_ok=True)


def folders(parent: Path | None = None) -> list[Path]:
    """Return the folders of all clusters that lie or are signed there; links that lead nowhere are removed."""
    found = set()
    for path in sorted((parent or sessions()).glob("*")):
        if path.is_dir():
            found.add(path.resolve())
        elif path.is_symlink():
            path.unlink(missing_ok=True)
    return sorted(found)


def _link(folder: Path, where: Path) -> Path:
    return where / f"elsewhere-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
