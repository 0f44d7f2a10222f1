"""How LMCache was configured: `LMCACHE_*` variables, and the keys `lmcache.*` of the connector's extra configuration.

A variable wins over a file (LMCache reads the file first). What stands in a file only is not seen, and unknown: a pod
names the file, its content is in a volume. The address of a remote store is looked at and never kept: it may hold a
password. Sizes are gigabytes of 2^30 bytes, for one worker.
"""

from collections.abc import Mapping
from typing import Final

from optiinfra.domain.engine_settings import LMCacheSettings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.engines import arguments
from optiinfra.engines.json_flags import JsonMap, connectors
from optiinfra.engines.setting_names import GIB

_FILE: Final = "LMCACHE_CONFIG_FILE"
_PREFIX: Final = "LMCACHE_"
_NOT_GIVEN: Final = Unknown(UnknownReason.NOT_MEASURED, "LMCache was not told")
_IN_A_FILE: Final = Unknown(UnknownReason.NOT_MEASURED, "LMCache reads a file whose content is not seen")
_NOTHING: Final = frozenset({"", "none", "null"})


def read(environment: Mapping[str, str], transfer: JsonMap | None, *, workers: Value) -> LMCacheSettings:
    """Read LMCache's settings from a container's literal variables and its KV-transfer configuration."""
    given = _given(environment, transfer)
    missing = _IN_A_FILE if _FILE in environment else _NOT_GIVEN
    remote = given.get("remote_url", given.get("remote_storage_plugins"))
    return LMCacheSettings(
        chunk_tokens=_number(given, "chunk_size", missing, unit=1.0),
        local_bytes=_local(given, missing),
        disk_bytes=_number(given, "max_local_disk_size", missing, unit=GIB),
        remote=missing if remote is None else remote.strip().lower() not in _NOTHING,
        policy=given.get("cache_policy", "").strip().upper()[:20],
        workers=workers,
    )


def _given(environment: Mapping[str, str], transfer: JsonMap | None) -> dict[str, str]:
    given: dict[str, str] = {}
    for config in connectors(transfer) if transfer is not None else ():
        extra = config.get("kv_connector_extra_config")
        for name, value in extra.items() if isinstance(extra, dict) else ():
            if name.startswith("lmcache.") and isinstance(value, str | int | float | bool):
                given[name.removeprefix("lmcache.")] = str(value)
    for name, value in environment.items():
        if name.startswith(_PREFIX) and name != _FILE:
            given[name.removeprefix(_PREFIX).lower()] = value
    return given


def _local(given: Mapping[str, str], missing: Unknown) -> Value:
    if given.get("local_cpu", "").strip().lower() in {"false", "0", "no"}:
        return 0.0
    return _number(given, "max_local_cpu_size", missing, unit=GIB)


def _number(given: Mapping[str, str], name: str, missing: Unknown, *, unit: float) -> Value:
    text = given.get(name)
    if text is None:
        return missing
    value = arguments.number(text)
    if value is None or value < 0.0:
        return Unknown(UnknownReason.INVALID, f"{name} of LMCache is no size")
    return value * unit
