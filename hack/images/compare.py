"""Whether two builds of an image are the same, byte for byte, and which files are not: `make images ARGS=--compare`."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from hack.images import archive

_SHOWN = 20
_Entry = tuple[object, ...]


def differences(one: Path, two: Path) -> list[str]:
    """Return in words what differs between two archives of the same image; empty when every byte of it is the same.

    The archive around it (names, order of its members) belongs to the tool that wrote it and is not judged.
    """
    found = []
    first, second = archive.configuration(one), archive.configuration(two)
    found += [
        f"configuration: {key}" for key in sorted({*first, *second} - {"rootfs"}) if first.get(key) != second.get(key)
    ]
    layers = [archive.layers(path) for path in (one, two)]
    if len(layers[0]) != len(layers[1]):
        return [*found, f"{len(layers[0])} and {len(layers[1])} layers"]
    for number, (left, right) in enumerate(zip(*layers, strict=True)):
        if first["rootfs"]["diff_ids"][number] != second["rootfs"]["diff_ids"][number]:
            here = [f"layer {number}: {line}" for line in _of_layer(one, left, two, right)]
            found += here or [f"layer {number}: the same files in another order or with other headers"]
    return found if len(found) <= _SHOWN else [*found[:_SHOWN], f"and {len(found) - _SHOWN} more"]


def _of_layer(one: Path, left: str, two: Path, right: str) -> Iterator[str]:
    before, after = _entries(one, left), _entries(two, right)
    for name in sorted(before.keys() | after.keys()):
        if name not in after or name not in before:
            yield f"{name}: in one only"
        elif before[name] != after[name]:
            yield f"{name}: {_what(before[name], after[name])}"


def _what(before: _Entry, after: _Entry) -> str:
    names = ("kind", "mode", "owner", "group", "time", "link", "content")
    return ", ".join(name for name, left, right in zip(names, before, after, strict=True) if left != right)


def _entries(path: Path, layer: str) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    with archive.opened(path, layer) as content:
        for each in content:
            found[each.name] = (
                each.type,
                each.mode,
                each.uid,
                each.gid,
                each.mtime,
                each.linkname,
                _digest(content, each),
            )
    return found


def _digest(content: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    file = content.extractfile(entry) if entry.isreg() else None
    if file is None:
        return ""
    with file:
        digest = hashlib.sha256()
        while chunk := file.read(archive.CHUNK):
            digest.update(chunk)
        return digest.hexdigest()
