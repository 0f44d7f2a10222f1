"""What a page says of its engine's settings; it corrects what the arguments say, for it shows what runs.

A fact that reads "auto" means that nobody chose, and is passed on as such. `kv_cache_memory_bytes` still shows the
configured size when the number of blocks is overridden (measured), and is then not believed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineReading, Signal, Unknown, UnknownReason
from optiinfra.engines import arguments
from optiinfra.engines.setting_names import GIB

_GAUGES: Final = (
    ("batch_limit", Signal.BATCH_LIMIT),
    ("kv_cache_capacity_tokens", Signal.KV_CACHE_CAPACITY_TOKENS),
    ("lora_limit", Signal.LORA_LIMIT),
)
_NUMBERS: Final = (
    ("block_size", "block_size"),
    ("block_size", "page_size"),
    ("kv_blocks", "num_gpu_blocks"),
    ("kv_blocks", "num_pages"),
    ("sliding_window", "sliding_window"),
    ("tensor_parallel", "tp_size"),
    ("pipeline_parallel", "pp_size"),
)


def corrected(settings: EngineSettings, reading: EngineReading | None) -> EngineSettings:
    """Return the settings with what the page says put in."""
    if reading is None or isinstance(settings.engine, Unknown):
        return settings
    changes: dict[str, Any] = {field: value for field, signal in _GAUGES if (value := reading.gauges.get(signal))}
    if "batch_limit" in changes:
        settings = replace(settings, batch_limit_source="page")
    changes |= {field: value for field, fact in _NUMBERS if (value := arguments.number(reading.facts.get(fact, "")))}
    more = _from_facts(reading.facts)
    if Signal.DRAFT_TOKENS in reading.counters:
        more["speculative"] = True
    if len(reading.members) > 1 and isinstance(settings.data_parallel, Unknown):
        more["data_parallel"] = float(len(reading.members))
    return replace(settings, **changes, **more)


def _from_facts(facts: Mapping[str, str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if dtype := facts.get("cache_dtype", "").lower():
        changes["kv_cache_dtype"] = dtype
    if (caching := facts.get("enable_prefix_caching")) is not None:
        changes["prefix_caching"] = caching == "True"
    share = arguments.number(facts.get("gpu_memory_utilization", ""))
    if share is not None and 0.0 < share <= 1.0:
        changes["gpu_memory_share"] = share
    if offloaded := arguments.number(facts.get("kv_offloading_size", "")):
        changes["offload_bytes"] = offloaded * GIB
    if facts.get("num_gpu_blocks_override"):
        changes["kv_cache_bytes"] = Unknown(UnknownReason.INVALID, "the number of blocks is overridden")
    elif configured := arguments.number(facts.get("kv_cache_memory_bytes", "")):
        changes["kv_cache_bytes"] = configured
    return changes
