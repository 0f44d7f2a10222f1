"""Fetches official releases, with the publisher's checksum, within bounds of time and size.

Each host is asked once a run, all of them at the same time; one that does not answer within a few seconds
is left alone for the rest of the run, so a machine behind a firewall loses seconds, not minutes.
"""

import hashlib
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from hack.binaries.catalogue import Binary, Download

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 8.0
"""Name resolution has no time-out of its own, so the whole probe has one."""
FILE_SECONDS = 300.0
FILE_BYTES = 400 * 1024 * 1024
CHECKSUM_BYTES = 64 * 1024
CHUNK = 1024 * 1024


class DownloadError(Exception):
    """A release could not be fetched; the caller goes on to the next source."""


class Downloads:
    """The hosts that answered, asked once."""

    def __init__(self, binaries: list[Binary]) -> None:
        self._checksums: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        first: dict[str, Download] = {}
        for binary in binaries:
            if binary.download is not None:
                first.setdefault(_host(binary.download.checksums), binary.download)
        threads = {host: self._probe(host, download) for host, download in first.items()}
        deadline = time.monotonic() + PROBE_SECONDS
        for host, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._failures[host] = f"no answer within {PROBE_SECONDS:.0f} s"

    @property
    def unreachable(self) -> dict[str, str]:
        """Hosts that did not answer, with the reason."""
        return dict(self._failures)

    def offers(self, binary: Binary) -> bool:
        """Whether a release can be had: it is published with a checksum, and its host answered."""
        return binary.download is not None and _host(binary.download.checksums) not in self._failures

    def fetch(self, binary: Binary, target: Path) -> None:
        """Fetch, verify and unpack `binary` to `target`; raise DownloadError when that is impossible."""
        download = binary.download
        if download is None:
            raise DownloadError("its publisher offers no checksum")
        host = _host(download.checksums)
        if host in self._failures:
            raise DownloadError(f"{host}: {self._failures[host]}")
        archive = target.with_name(f"{target.name}.part")
        try:
            expected = _expected(self._text(download.checksums), download.url)
            digest = _save(download.url, archive)
            if digest != expected:
                raise DownloadError(f"{download.url}: checksum is {digest}, should be {expected}")
            if download.member is None:
                archive.replace(target)
            else:
                _unpack(archive, download.member, target)
        except (OSError, tarfile.TarError, ValueError) as error:
            raise DownloadError(f"{download.url}: {error}") from error
        finally:
            archive.unlink(missing_ok=True)
        target.chmod(0o755)

    def _probe(self, host: str, download: Download) -> threading.Thread:
        def ask() -> None:
            try:
                self._checksums[download.checksums] = _read(download.checksums)
            except (OSError, ValueError) as error:
                self._failures.setdefault(host, str(getattr(error, "reason", error)))

        thread = threading.Thread(target=ask, daemon=True, name=f"probe-{host}")
        thread.start()
        return thread

    def _text(self, url: str) -> str:
        known = self._checksums.get(url)
        return known if known is not None else _read(url)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:  # noqa: S310 - https URLs of the catalogue
        content: bytes = answer.read(CHECKSUM_BYTES + 1)
    if len(content) > CHECKSUM_BYTES:
        raise ValueError(f"checksum file is over {CHECKSUM_BYTES} bytes")
    return content.decode("ascii")


def _expected(checksums: str, url: str) -> str:
    """Find the digest of `url` in a checksum file: one bare digest, or lines of digest and file name."""
    name = url.rsplit("/", 1)[1]
    for line in checksums.splitlines():
        words = line.split()
        if words and len(words[0]) == 64 and (len(words) == 1 or words[1].lstrip("*") == name):
            return words[0].lower()
    raise ValueError(f"no SHA-256 of {name} in its checksum file")


def _save(url: str, target: Path) -> str:
    digest = hashlib.sha256()
    size = 0
    deadline = time.monotonic() + FILE_SECONDS
    with (
        urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer,  # noqa: S310 - https URLs of the catalogue
        target.open("wb") as file,
    ):
        while chunk := answer.read1(CHUNK):
            size += len(chunk)
            if size > FILE_BYTES or time.monotonic() > deadline:
                raise ValueError(f"over {FILE_BYTES} bytes or {FILE_SECONDS:.0f} s")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, member: str, target: Path) -> None:
    with tarfile.open(archive, "r:gz") as files:
        source = files.extractfile(member)
        if source is None:
            raise ValueError(f"no file {member} in the archive")
        with source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                file.write(chunk)
