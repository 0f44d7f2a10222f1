"""Takes single programs out of Debian's packages: what the project is compared with, or checked by, not what it runs.

`python -m hack.binaries.debian` prints where each one is: on PATH, in the cache, or fetched now. Debian's archive is
asked first, then its snapshots, since the archive keeps the newest build of a package alone. The checksum is pinned
here, so it does not matter which of them answers. Nothing is installed: an archive member is copied out, with the
standard library only, and its maintainer scripts are not run. A machine of another kind than those pinned has to bring
the program on PATH, whose version is then taken as it is: whoever uses it says which one it was.
"""

import argparse
import hashlib
import io
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hack.binaries.catalogue import BinaryError, architecture
from hack.binaries.find import cache_folder

ARCHIVES = ("https://deb.debian.org/debian", "https://snapshot.debian.org/archive/debian/20261101T000000Z")
ANSWER_SECONDS = 20.0
PACKAGE_BYTES = 64 * 1024 * 1024
MEMBER_BYTES = 128 * 1024 * 1024
_MAGIC = b"!<arch>\n"
_HEADER = 60


@dataclass(frozen=True, kw_only=True)
class Package:
    """One program of one Debian package."""

    program: str
    version: str
    pool: str
    """Path of the package below an archive, with the architecture to fill in."""
    sha256: Mapping[str, str]
    """By architecture."""

    @property
    def member(self) -> str:
        """Path of the program in the package."""
        return f"./usr/bin/{self.program}"


PACKAGES = {
    package.program: package
    for package in (
        Package(
            program="prometheus-node-exporter",
            version="1.5.0-1+b6",
            pool="pool/main/p/prometheus-node-exporter/prometheus-node-exporter_1.5.0-1+b6_{}.deb",
            sha256={"amd64": "8cb5b39627595ea2cf3cd27be593e0e9af87023d29e1c5b8487e2f9510097e09"},
        ),
        *(
            Package(
                program=program,
                version="2.42.0+ds-5+deb12u1",
                pool="pool/main/p/prometheus/prometheus_2.42.0+ds-5+deb12u1_{}.deb",
                sha256={"amd64": "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55"},
            )
            for program in ("prometheus", "promtool")
        ),
    )
}


def ensure_packaged(program: str) -> Path:
    """Return the path of one of PACKAGES' programs; raise BinaryError when it cannot be had."""
    package = PACKAGES[program]
    on_path = shutil.which(program)
    if on_path:
        return Path(on_path)
    kept = cache_folder(os.environ).parent / "debian" / f"{program}_{package.version}"
    if not os.access(kept, os.X_OK):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="scratch-") as folder:
            fresh = Path(folder) / program
            take_out(_fetched(package), package.member, fresh)
            fresh.chmod(0o755)
            fresh.replace(kept)
    return kept


def take_out(content: bytes, member: str, target: Path) -> None:
    """Copy one file of a Debian package to `target`; raise BinaryError when it is not there."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_of(content)), mode="r|xz") as files:
            for entry in files:
                if entry.name == member:
                    _copy(files.extractfile(entry), entry.size, target)
                    return
    except (ValueError, tarfile.TarError, lzma.LZMAError) as error:
        raise BinaryError(f"{member} cannot be taken out of its Debian package: {error}") from error
    raise BinaryError(f"{member} is not in its Debian package")


def _copy(source: IO[bytes] | None, size: int, target: Path) -> None:
    if source is None or size > MEMBER_BYTES:
        raise ValueError(f"it is no file of at most {MEMBER_BYTES} bytes")
    with source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _data_of(content: bytes) -> bytes:
    """Return the member data.tar.xz of an `ar` archive (deb(5)).

    Each header there has 60 bytes: the name in the first 16, the size in bytes 48 to 57.
    """
    if not content.startswith(_MAGIC):
        raise ValueError("it is no Debian package")
    position = len(_MAGIC)
    while position + _HEADER <= len(content):
        name = content[position : position + 16].rstrip(b" /")
        size = int(content[position + 48 : position + 58])
        position += _HEADER
        if name == b"data.tar.xz":
            return content[position : position + size]
        position += size + size % 2
    raise ValueError("it has no data.tar.xz")


def _fetched(package: Package) -> bytes:
    expected = package.sha256.get(architecture())
    if expected is None:
        raise BinaryError(
            f"{package.program}: no checksum is pinned for {architecture()}: install it, so that PATH has it"
        )
    reasons = []
    for archive in ARCHIVES:
        url = f"{archive}/{package.pool.format(architecture())}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - https URLs from above
                content: bytes = answer.read(PACKAGE_BYTES + 1)
        except OSError as error:
            reasons.append(f"{archive}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() == expected:
            return content
        reasons.append(f"{archive}: another SHA-256 than the one pinned")
    raise BinaryError(f"{package.program} {package.version} cannot be had: {'; '.join(reasons)}")


def main() -> int:
    """Get the named programs, all of them by default, and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m hack.binaries.debian", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PACKAGES], metavar="name", help=f"of {', '.join(PACKAGES)}")
    try:
        for name in parser.parse_args().names or PACKAGES:
            print(f"{name:<26} {ensure_packaged(name)}")
    except BinaryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
