"""Writes into a root file system which packages it consists of: `python inventory.py ROOT`, as a hook of mmdebstrap.

Packages that are unpacked and not installed leave no database of dpkg, so that neither a scanner nor a bill of
materials could tell what there is. As in Google's distroless images each package has a file in var/lib/dpkg/status.d,
with the fields of its control file and the SHA-256 of its archive. A package of which no file is left is not named,
unless something was made of it.

It runs with whatever Python mmdebstrap's caller has, so it needs nothing but the standard library.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

FOLDER = "var/lib/dpkg/status.d"
_ARCHIVES = "var/cache/apt/archives"
_FIELDS = ("Package", "Source", "Version", "Architecture", "Maintainer", "Section", "Homepage")
_MADE_FROM = ("ca-certificates",)
"""Its single files became the one that is read."""
_SECONDS = 120.0


def write(root: Path) -> int:
    """Write the files for all archives that apt has fetched into `root`; return how many packages are named."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for package in sorted((root / _ARCHIVES).glob("*.deb")):
        name = package.name.partition("_")[0]
        if name in _MADE_FROM or _is_left(package, root):
            control = _output("dpkg-deb", "--field", str(package), *_FIELDS).decode()
            digest = hashlib.sha256(package.read_bytes()).hexdigest()
            (folder / name).write_text(f"{control.rstrip()}\nSHA256: {digest}\n", encoding="utf-8")
            count += 1
    return count


def _is_left(package: Path, root: Path) -> bool:
    with tarfile.open(fileobj=io.BytesIO(_output("dpkg-deb", "--fsys-tarfile", str(package)))) as content:
        return any(each.isreg() and (root / each.name).is_file() for each in content)


def _output(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout


if __name__ == "__main__":
    sys.exit(0 if write(Path(sys.argv[1])) else "no packages in the root file system")
