"""Flags whose value is JSON: `--kv-transfer-config '{...}'`, or one flag a key, `--kv-transfer-config.kv_role X`.

A value that is not JSON (a file's name, a variable that is not literal) is unknown, not empty. Depth and size are
bounded by the length that arguments are kept at.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.engines.arguments import CommandLine

JsonMap: TypeAlias = Mapping[str, object]
_MAX_CONNECTORS = 16


def read(line: CommandLine, *flags: str) -> JsonMap | Unknown | None:
    """Return what a JSON flag says, dotted keys put in; None where it was not given."""
    given = next((flag for flag in flags if flag in line.flags), None)
    found: dict[str, object] = {}
    if given is not None:
        try:
            parsed = json.loads(line.flags[given])
        except (ValueError, RecursionError):
            return Unknown(UnknownReason.INVALID, f"{given} holds no JSON")
        if not isinstance(parsed, dict):
            return Unknown(UnknownReason.INVALID, f"{given} holds no JSON object")
        found |= parsed
    elif line.unresolved & set(flags):
        return Unknown(UnknownReason.NOT_MEASURED, f"{flags[0]} comes from a variable that is not literal")
    dotted = {
        name[len(flag) + 1 :].replace("-", "_"): value
        for flag in flags
        for name, value in line.flags.items()
        if name.startswith(f"{flag}.")
    }
    found |= dotted
    return found if given is not None or dotted else None


def connectors(config: JsonMap) -> Iterator[JsonMap]:
    """Yield a KV connector's configuration, and those of the connectors that it puts together."""
    yield config
    extra = config.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, dict) else None
    for one in inner[:_MAX_CONNECTORS] if isinstance(inner, list) else ():
        if isinstance(one, dict):
            yield one


def text(config: JsonMap, key: str) -> str:
    """Return a text of a configuration; empty where it is none."""
    value = config.get(key)
    return value if isinstance(value, str) else ""
