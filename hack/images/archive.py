"""Image archives in docker's format, which docker, podman, buildah and containerd read: written and measured.

The same layers and configuration give the same bytes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
_CREATED = "1980-01-01T00:00:00Z"


def write(path: Path, *, name: str, layers: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Write an image of plain, uncompressed tars; `settings` are its `config` (Entrypoint, Env, ...)."""
    digests = [_digest(layer) for layer in layers]
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": dict(settings),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
        # buildah refuses to build on layers that no history tells of.
        "history": [{"created": _CREATED, "created_by": "hack.images"}] * len(digests),
    }
    content = json.dumps(configuration, sort_keys=True).encode()
    file = f"{hashlib.sha256(content).hexdigest()}.json"
    names = [f"{each}/layer.tar" for each in digests]
    manifest = json.dumps([{"Config": file, "RepoTags": [name], "Layers": names}]).encode()
    with tarfile.open(path, "w") as tar:
        for entry, text in ((file, content), ("manifest.json", manifest)):
            tar.addfile(_entry(entry, len(text)), io.BytesIO(text))
        for entry, layer in zip(names, layers, strict=True):
            with layer.open("rb") as source:
                tar.addfile(_entry(entry, layer.stat().st_size), source)


def size(path: Path) -> int:
    """Return the uncompressed bytes of all layers of an archive."""
    with tarfile.open(path) as tar:
        manifest = _member(tar, "manifest.json")
        return sum(_uncompressed(tar, name) for name in manifest[0]["Layers"])


def configuration(path: Path) -> dict[str, Any]:
    """Return the configuration of the image in an archive."""
    with tarfile.open(path) as tar:
        found: dict[str, Any] = _member(tar, _member(tar, "manifest.json")[0]["Config"])
        return found


def _member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file of the archive")
    with file:
        return json.load(file)


def _uncompressed(tar: tarfile.TarFile, name: str) -> int:
    entry = tar.getmember(name)
    file = tar.extractfile(entry.linkname if entry.issym() else entry)
    if file is None:
        raise ValueError(f"{name} is no file of the archive")
    total = 0
    # Whether it is compressed is up to whoever wrote it.
    with file, tarfile.open(fileobj=file, mode="r|*") as layer:
        for each in layer:
            total += each.size if each.isreg() else 0
    return total


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _entry(name: str, length: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = length
    entry.mode = 0o644
    return entry
