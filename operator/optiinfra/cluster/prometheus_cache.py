"""Pieces of answers on disk, so that a run that was ended goes on where it was and the next one asks for little.

A piece is named by a hash of what it answers: server, tenant, user, query, range and labels. Neither names nor files
hold a token, a password or the value of a header that may be one. Files are for their owner only, written beside and
moved into place, checked by a sum when they are read, and bounded in size and age: what was asked about the last hours
is asked again sooner, because samples come late. A file that cannot be read is no answer; a disk that cannot be written
is told once, and the run goes on without.
"""

import hashlib
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from optiinfra.cluster.errors import Unconfigured
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_rows import Key, Rows
from optiinfra.cluster.prometheus_server import PrometheusServer

_MAGIC: Final = b"OPTIINFRA-PIECE-1\n"
_SUFFIX: Final = ".piece"
_LENGTH: Final = 8
_SECRET_WORDS: Final = ("auth", "cookie", "key", "token", "secret", "password", "credential")
MOST_FILES: Final = 200_000


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much is kept, and how long."""

    bytes: int = 2 << 30
    age_s: float = 7 * 86_400.0
    recent_s: float = 3 * 3_600.0
    """Pieces that end within it before they are asked may still change."""
    recent_age_s: float = 30 * 60.0
    """How long those are kept."""


DEFAULT_CACHE_LIMITS: Final = CacheLimits()


def default_folder() -> Path:
    """Return where answers are kept unless said otherwise: below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "optiinfra" / "prometheus"


class PieceCache:
    """Answers in one folder. Several processes may use it at once: a piece is whole or not there."""

    def __init__(
        self, folder: Path, *, limits: CacheLimits = DEFAULT_CACHE_LIMITS, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._bytes = 0
        self.hits = 0
        self.trouble = ""
        """Why nothing is kept any more; empty while all is well."""

    def open(self) -> None:
        """Make the folder, for its owner only, and remove what is too old or too much. Raises `Unconfigured`."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.stat()
            if found.st_uid != os.geteuid():
                raise Unconfigured(f"the cache folder {self._folder} is another user's: name another one, or none")
            if stat.S_IMODE(found.st_mode) & 0o077:
                self._folder.chmod(0o700)
            self._trim()
        except OSError as error:
            text = f"the cache folder {self._folder} is not usable ({error.strerror}): name another one, or none"
            raise Unconfigured(text) from error

    def get(self, name: str) -> Rows | None:
        """Return a piece that was kept and is young enough."""
        path = self._path(name)
        try:
            found = path.stat()
            content = path.read_bytes()
        except OSError:
            return None
        read = _read(content)
        if read is None:
            self._remove(path)
            return None
        answer, kept_for = read
        if self._clock() - found.st_mtime > kept_for:
            self._remove(path)
            return None
        self.hits += 1
        return answer

    def has(self, name: str) -> bool:
        """Tell whether a piece is kept, without reading it."""
        return self._path(name).exists()

    def put(self, name: str, answer: Rows, *, end: float, now: float) -> None:
        """Keep a piece whose last moment is `end`, asked at `now` by the server's clock."""
        if self.trouble:
            return
        recent = end > now - self._limits.recent_s
        content = _written(answer, kept_for=self._limits.recent_age_s if recent else self._limits.age_s)
        if self._bytes + len(content) > self._limits.bytes:
            self._trim(room=len(content))
        path = self._path(name)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # mkstemp makes files that only their owner can read.
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                Path(beside).replace(path)
            except OSError:
                Path(beside).unlink(missing_ok=True)
                raise
        except OSError as error:
            self.trouble = f"answers are not kept any more: {self._folder} cannot be written ({error.strerror})"
            return
        self._bytes += len(content)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}{_SUFFIX}"

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _trim(self, *, room: int = 0) -> None:
        """Remove the oldest until a quarter is free, where there is too much; what is too old in any case."""
        now = self._clock()
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            try:
                one = path.stat()
            except OSError:
                continue  # another process removed it
            if now - one.st_mtime > self._limits.age_s or (path.suffix != _SUFFIX and now - one.st_mtime > 3600.0):
                self._remove(path)
            elif path.suffix == _SUFFIX:
                found.append((one.st_mtime, one.st_size, path))
        self._bytes = sum(size for _, size, _ in found)
        if self._bytes + room <= self._limits.bytes and len(found) < MOST_FILES:
            return
        left = len(found)
        for _, size, path in sorted(found, key=lambda one: one[0]):
            if self._bytes + room <= 0.75 * self._limits.bytes and left < 0.75 * MOST_FILES:
                break
            self._remove(path)
            self._bytes -= size
            left -= 1


def piece_name(server: PrometheusServer, query: str, piece: Piece, *, by: Key) -> str:
    """Return the hash that names an answer. Who sees other data at one address is told apart."""
    headers = sorted(
        (name.lower(), "" if any(word in name.lower() for word in _SECRET_WORDS) else value)
        for name, value in server.headers
    )
    user = server.user or server.url.user or ""
    told = [server.shown, server.tenant, user, headers, query, piece.start, piece.step, piece.points, by]
    return hashlib.sha256(_MAGIC + orjson.dumps(told)).hexdigest()


def _written(answer: Rows, *, kept_for: float) -> bytes:
    numbers = np.ascontiguousarray(answer.values, dtype="<f8").tobytes()
    head: dict[str, Any] = {
        "keys": answer.keys,
        "points": answer.values.shape[1],
        "samples": answer.samples,
        "warnings": answer.warnings,
        "merged": answer.merged,
        "kept_for": kept_for,
        "sum": zlib.crc32(numbers),
    }
    text = orjson.dumps(head)
    return b"".join((_MAGIC, len(text).to_bytes(_LENGTH, "big"), zlib.crc32(text).to_bytes(4, "big"), text, numbers))


def _read(content: bytes) -> tuple[Rows, float] | None:
    """Read what `_written` wrote; None for anything else, a half-written or a damaged file among it."""
    begin = len(_MAGIC) + _LENGTH + 4
    if not content.startswith(_MAGIC) or len(content) < begin:
        return None
    length = int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + _LENGTH], "big")
    text = content[begin : begin + length]
    if len(text) != length or zlib.crc32(text).to_bytes(4, "big") != content[begin - 4 : begin]:
        return None
    head = orjson.loads(text)
    numbers = content[begin + length :]
    keys = tuple(tuple(key) for key in head["keys"])
    if zlib.crc32(numbers) != head["sum"] or len(numbers) != 8 * len(keys) * head["points"]:
        return None
    values = np.frombuffer(numbers, dtype="<f8").reshape(len(keys), head["points"])
    return Rows(keys, values, head["samples"], tuple(head["warnings"]), head["merged"]), head["kept_for"]
