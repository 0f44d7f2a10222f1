"""Runs a program of an unpacked package as if it were installed: in a mount namespace with the packages laid over /usr.

`command()` answers with what to run; where the program is on PATH, that is itself. As a program it is what comes
between: `python -m hack.node.overlaid FOLDER PROGRAM [ARGUMENT ...]`. A search path for libraries would not do instead,
because such programs start themselves again with an environment of their own.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hack.node import packages
from hack.node import system_calls as kernel

ROOT = Path(__file__).resolve().parents[2]


def command(words: Sequence[str], *, needs: str, say: Callable[[str], None]) -> list[str]:
    """Return what to run, in the folder ROOT, for a command whose program `needs` may have to be unpacked first."""
    if shutil.which(needs):
        return list(words)
    folder = packages.tools(packages.IMAGES, say=say)
    return [sys.executable, "-m", "hack.node.overlaid", str(folder), *words]


def main() -> int:
    """Lay the packages over /usr and become the program."""
    folder, *words = sys.argv[1:]
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("overlay", "/usr", "overlay", flags=kernel.READ_ONLY, options=f"lowerdir={folder}/usr:/usr")
    _catch_writes(Path(folder).parent / "writes")
    os.execvp(words[0], words)  # noqa: S606  what the caller asked for; no shell


def _catch_writes(scratch: Path) -> None:
    """Let what such programs make below /etc and /var/lib be seen by them alone, in memory."""
    scratch.mkdir(exist_ok=True)
    kernel.mount("tmpfs", scratch, "tmpfs")
    for path in ("/etc", "/var/lib"):
        upper, work = (scratch / f"{path[1:].replace('/', '-')}-{kind}" for kind in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        kernel.mount("overlay", path, "overlay", options=f"lowerdir={path},upperdir={upper},workdir={work}")


if __name__ == "__main__":
    sys.exit(main())
