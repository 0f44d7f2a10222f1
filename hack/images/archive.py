"""Image archives in docker's format, which docker, podman, buildah and containerd read: written and measured.

The same layers and configuration give the same bytes.
"""

import contextlib
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
TEXT_BYTES = 16 << 20
_CREATED, _TIME = "1980-01-01T00:00:00Z", 315532800
_TIMES = {"mtime", "atime", "ctime"}


def write(path: Path, *, name: str, layers: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Write an image of plain, uncompressed tars; `settings` are its `config` (Entrypoint, Env, ...)."""
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": dict(settings),
        "rootfs": {"type": "layers"},
        # buildah refuses to build on layers that no history tells of.
        "history": [{"created": _CREATED, "created_by": "hack.images"}] * len(layers),
    }
    _pack(path, configuration, names=[name], layers=layers)


def settle(path: Path) -> None:
    """Give all files of all layers, and the configuration, one time: docker's builder leaves those of the build.

    The archive is then the same for the same sources; the image in docker's own store is not.
    """
    with tarfile.open(path) as source, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        manifest = _member(source, "manifest.json")[0]
        found = _member(source, manifest["Config"])
        for part in (found, *found.get("history", ())):
            part["created"] = _CREATED
        settled = []
        for number, name in enumerate(manifest["Layers"]):
            settled.append(Path(folder, f"{number}.tar"))
            with opened(path, name) as old, tarfile.open(settled[-1], "w") as new:
                for entry in old:
                    entry.mtime = _TIME
                    entry.pax_headers = {key: text for key, text in entry.pax_headers.items() if key not in _TIMES}
                    new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
        fresh = path.with_suffix(".new")
        _pack(fresh, found, names=manifest["RepoTags"], layers=settled)
    fresh.replace(path)


def normalize(path: Path) -> None:
    """Write an archive of uncompressed layers anew, with nothing in it that another build of the same would not have.

    buildah's history tells of each step on which image of its cache it stood, by an id that is another one every time.
    """
    with tarfile.open(path) as source:
        manifest = _member(source, "manifest.json")[0]
        found = _member(source, manifest["Config"])
        for step in found.get("history", ()):
            step.pop("comment", None)
        content = json.dumps(found, sort_keys=True).encode()
        file = f"{hashlib.sha256(content).hexdigest()}.json"
        names = [f"{each.removeprefix('sha256:')}.tar" for each in found["rootfs"]["diff_ids"]]
        listed = json.dumps([{"Config": file, "RepoTags": manifest["RepoTags"], "Layers": names}]).encode()
        fresh = path.with_suffix(".new")
        with tarfile.open(fresh, "w") as target:
            for entry, text in ((file, content), ("manifest.json", listed)):
                target.addfile(_entry(entry, len(text)), io.BytesIO(text))
            # The same layer twice is in the archive once.
            for entry, member in dict(zip(names, manifest["Layers"], strict=True)).items():
                layer = _resolved(source, member)
                target.addfile(_entry(entry, layer.size), source.extractfile(layer))
    fresh.replace(path)


def size(path: Path) -> int:
    """Return the uncompressed bytes of all layers of an archive."""
    total = 0
    for name in layers(path):
        with opened(path, name) as layer:
            total += sum(each.size for each in layer if each.isreg())
    return total


def configuration(path: Path) -> dict[str, Any]:
    """Return the configuration of the image in an archive."""
    with tarfile.open(path) as tar:
        found: dict[str, Any] = _member(tar, _member(tar, "manifest.json")[0]["Config"])
        return found


def layers(path: Path) -> list[str]:
    """Return the names of the layers of an archive, the lowest first."""
    with tarfile.open(path) as tar:
        return [str(name) for name in _member(tar, "manifest.json")[0]["Layers"]]


@contextlib.contextmanager
def opened(path: Path, layer: str) -> Iterator[tarfile.TarFile]:
    """Open one layer of an archive, to be read from its beginning to its end."""
    with tarfile.open(path) as tar:
        file = tar.extractfile(_resolved(tar, layer))
        if file is None:
            raise ValueError(f"{layer} is no file of the archive")
        # Whether it is compressed is up to whoever wrote it.
        with file, tarfile.open(fileobj=file, mode="r|*") as content:
            yield content


def texts(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield path and content of the wanted text files of all layers, the lowest layer first."""
    for layer in layers(path):
        with opened(path, layer) as content:
            for each in content:
                name = each.name.removeprefix("./")
                if each.isreg() and wanted(name) and (file := content.extractfile(each)):
                    with file:
                        yield name, file.read(TEXT_BYTES).decode("utf-8", "replace")


def _resolved(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    entry = tar.getmember(name)
    return tar.getmember(entry.linkname) if entry.issym() else entry


def _member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file of the archive")
    with file:
        return json.load(file)


def _pack(path: Path, configuration: dict[str, Any], *, names: Sequence[str], layers: Sequence[Path]) -> None:
    digests = [_digest(layer) for layer in layers]
    configuration["rootfs"]["diff_ids"] = [f"sha256:{each}" for each in digests]
    content = json.dumps(configuration, sort_keys=True).encode()
    file = f"{hashlib.sha256(content).hexdigest()}.json"
    entries = {f"{each}/layer.tar": layer for each, layer in zip(digests, layers, strict=True)}
    listed = [f"{each}/layer.tar" for each in digests]
    manifest = json.dumps([{"Config": file, "RepoTags": names, "Layers": listed}]).encode()
    with tarfile.open(path, "w") as tar:
        for entry, text in ((file, content), ("manifest.json", manifest)):
            tar.addfile(_entry(entry, len(text)), io.BytesIO(text))
        # The same layer twice is in the archive once.
        for entry, layer in entries.items():
            with layer.open("rb") as source:
                tar.addfile(_entry(entry, layer.stat().st_size), source)


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
