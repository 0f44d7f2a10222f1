"""A change of a manifest as operations on the very document that is there: RFC 6902, guarded by tests.

A strategic-merge patch says what shall be; which place of which list that is, only the live document knows. So both are
put side by side, and what comes out names indices and tests first that the right thing stands there: where somebody
changed the document meanwhile, the patch fails instead of changing another field. An engine's flag is one entry of a
list of arguments that no merge patch can reach alone; here it is found, replaced, added or taken away by itself.
Pure: documents are opaque JSON. What cannot be changed exactly (a flag inside a shell command, a container that is not
there) raises `NoPatchError` with the reason; nothing is guessed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from optiinfra.errors import OptiInfraError

Document: TypeAlias = Mapping[str, Any]
Operation: TypeAlias = dict[str, Any]
Step: TypeAlias = str | int

_BY_NAME: Final = frozenset({"containers", "initContainers", "env"})
"""Lists that a strategic merge joins by the entries' names."""
_HEAD: Final = frozenset({"apiVersion", "kind", "metadata"})
_TEMPLATES: Final[tuple[tuple[str, ...], ...]] = (
    ("spec", "template", "spec"),
    ("spec", "leaderWorkerTemplate", "leaderTemplate", "spec"),
    ("spec", "leaderWorkerTemplate", "workerTemplate", "spec"),
)
_SHELLS: Final = frozenset({"sh", "bash", "ash", "dash", "zsh"})
_VALUE: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,256}\Z")
OFF: Final = frozenset({"", "off", "not given", "not set", "none"})
"""Values that mean: the flag is not there."""


class NoPatchError(OptiInfraError):
    """No exact patch can be written; the text says why."""


def merge_operations(live: Document, patch: Document) -> list[Operation]:
    """Return what a strategic-merge patch comes to on a live document; empty where it is so already.

    Raises:
        NoPatchError: it speaks of a container that the document does not have.
    """
    changes = {key: value for key, value in patch.items() if key not in _HEAD}
    return list(_merged(live, changes, ()))


def _merged(live: Document, patch: Document, path: tuple[Step, ...]) -> Iterator[Operation]:
    for key, value in patch.items():
        here = (*path, key)
        old = live.get(key)
        if value is None:
            if key in live:
                yield from ({"op": "test", "path": pointer(here), "value": old}, _remove(here))
        elif old is None:
            yield {"op": "add", "path": pointer(here), "value": _without_nulls(value)}
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _merged(old, value, here)
        elif isinstance(value, list) and isinstance(old, list):
            yield from _list(old, value, here)
        elif value != old:
            yield {"op": "test", "path": pointer(here), "value": old}
            yield {"op": "replace", "path": pointer(here), "value": value}


def _list(old: Sequence[Any], new: Sequence[Any], path: tuple[Step, ...]) -> Iterator[Operation]:
    if path[-1] not in _BY_NAME:
        if len(old) == len(new) and all(isinstance(one, Mapping) for one in (*old, *new)):
            for index, (before, after) in enumerate(zip(old, new, strict=True)):
                yield from _merged(before, after, (*path, index))
        elif list(old) != list(new):
            yield {"op": "test", "path": pointer(path), "value": list(old)}
            yield {"op": "replace", "path": pointer(path), "value": list(new)}
        return
    for entry in new:
        name = entry.get("name")
        place = next((number for number, one in enumerate(old) if one.get("name") == name), None)
        if place is None and path[-1] == "env":
            yield {"op": "add", "path": pointer((*path, "-")), "value": dict(entry)}
            continue
        if place is None:
            raise NoPatchError(f"the manifest has no container {name}; it is injected, or the recommendation is old")
        rest = {key: value for key, value in entry.items() if key != "name"}
        inside = list(_merged(old[place], rest, (*path, place)))
        if inside:
            yield {"op": "test", "path": pointer((*path, place, "name")), "value": name}
            yield from inside


def argument_operations(live: Document, *, container: str, flag: str, value: str, given: str) -> list[Operation]:
    """Return the operations that give a flag of a container another value; empty where it has it already.

    Args:
        live: the workload.
        container: name of the container.
        flag: with its dashes.
        value: the new value; "on" for a switch without one, one of `OFF` to take it away.
        given: the value it has now as far as known, one of `OFF` when it is not given.

    Raises:
        NoPatchError: the flag cannot be reached exactly.
    """
    if value not in OFF and (not _VALUE.match(value)):
        raise NoPatchError(f"{value[:64]!r} is no value that can be written for {flag}")
    path, found = _container(live, container)
    guard: list[Operation] = [{"op": "test", "path": pointer((*path, "name")), "value": container}]
    written = flag if value == "on" else f"{flag}={value}"
    for field in ("args", "command"):
        entries = [entry if isinstance(entry, str) else "" for entry in found.get(field) or ()]
        places = [index for index, entry in enumerate(entries) if _names(entry, flag)]
        if len(places) > 1:
            raise NoPatchError(f"{flag} is given more than once in {field} of container {container}; leave one")
        if places:
            return _present(entries, places[0], (*path, field), flag=flag, written=written, value=value, guard=guard)
        if any(flag in entry.split() or f"{flag}=" in entry for entry in entries):
            raise NoPatchError(f"{flag} stands inside a shell command of container {container}; change it there")
    if value in OFF:
        return []
    if given not in OFF:
        raise NoPatchError(
            f"{flag} is {given} and not among the arguments of container {container} (a variable, a file or the image "
            "gives it); change it there"
        )
    return [*guard, _added(found, path, container=container, written=written)]


def _added(found: Document, path: tuple[Step, ...], *, container: str, written: str) -> Operation:
    """Put a flag behind the arguments that are there."""
    command = [entry for entry in found.get("command") or () if isinstance(entry, str)]
    if command and command[0].rsplit("/", 1)[-1] in _SHELLS:
        raise NoPatchError(f"container {container} starts by a shell command; write {written} into it")
    if found.get("args"):
        return {"op": "add", "path": pointer((*path, "args", "-")), "value": written}
    if command:
        return {"op": "add", "path": pointer((*path, "command", "-")), "value": written}
    return {"op": "add", "path": pointer((*path, "args")), "value": [written]}


def _present(
    entries: Sequence[str],
    index: int,
    path: tuple[Step, ...],
    *,
    flag: str,
    written: str,
    value: str,
    guard: list[Operation],
) -> list[Operation]:
    """Change a flag that is there: as one entry with its value, or as two."""
    here = pointer((*path, index))
    test = {"op": "test", "path": here, "value": entries[index]}
    own = entries[index].split("=", 1)[0]
    after = entries[index + 1] if index + 1 < len(entries) else ""
    # "--flag value": the next entry is its value, unless it is the next flag.
    apart = "=" not in entries[index] and bool(after) and not after.startswith("-") and value != "on"
    if value in OFF:
        takes = [*guard, test]
        if apart:
            beside = pointer((*path, index + 1))
            takes += [{"op": "test", "path": beside, "value": after}, _remove((*path, index + 1))]
        return [*takes, _remove((*path, index))]
    if apart:
        if after == value:
            return []
        beside = pointer((*path, index + 1))
        return [
            *guard,
            test,
            {"op": "test", "path": beside, "value": after},
            {"op": "replace", "path": beside, "value": value},
        ]
    now = written.replace(flag, own, 1)
    if now == entries[index]:
        return []
    return [*guard, test, {"op": "replace", "path": here, "value": now}]


def _names(entry: str, flag: str) -> bool:
    """Tell whether an argument is this flag; engines take dashes and underscores alike."""
    own = entry.split("=", 1)[0]
    return own.startswith("-") and own.lstrip("-").replace("_", "-") == flag.lstrip("-").replace("_", "-")


def _container(live: Document, name: str) -> tuple[tuple[Step, ...], Document]:
    for path in _TEMPLATES:
        spec: Any = live
        for step in path:
            spec = spec.get(step) if isinstance(spec, Mapping) else None
        if not isinstance(spec, Mapping):
            continue
        for index, one in enumerate(spec.get("containers") or ()):
            if isinstance(one, Mapping) and one.get("name") == name:
                return (*path, "containers", index), one
    raise NoPatchError(f"the manifest has no container {name or '(not known)'}")


def pointer(path: Sequence[Step]) -> str:
    """Write a path as a JSON pointer (RFC 6901)."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _remove(path: tuple[Step, ...]) -> Operation:
    return {"op": "remove", "path": pointer(path)}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value
