"""What engines' pages say of their settings: on what all pods of a workload agree, and their smallest capacity."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.history import EngineConfig
from optiinfra.domain.report.joining_frames import Answers
from optiinfra.domain.report.joining_owners import Owners

_LONGEST: Final = 15
_NOT_TOLD: Final = Unknown(UnknownReason.NOT_MEASURED, "no page of the last day tells it")


def engine_config(answers: Answers, owners: Owners, key: tuple[str, str], *, engines: Iterable[str]) -> EngineConfig:
    """Return what the engines of one workload say of their settings; `engines` are what questions begin with."""
    rows = [
        labels
        for labels, _, newest in answers.each("vllm.config")
        if newest > 0 and owners.of(labels["namespace"], labels["workload"]).key == key
    ]

    def told(name: str) -> str:
        """Return a label on which all pods agree; "" where they do not, or none says it."""
        values = {row[name] for row in rows} - {"", "None"}
        return values.pop() if len(values) == 1 else ""

    def number(name: str) -> Value:
        return _number(told(name), name, differ=len({row[name] for row in rows}) > 1)

    def newest(name: str) -> list[float]:
        return [
            value
            for prefix in engines
            for labels, _, value in answers.each(f"{prefix}.{name}")
            if np.isfinite(value) and owners.of(labels["namespace"], labels["workload"]).key == key
        ]

    size = _first(newest("block_size"), number("block_size"))
    blocks = _first(newest("gpu_blocks"), _smallest(row["num_gpu_blocks"] for row in rows))
    tokens = _first(newest("kv_capacity"), _smallest(row["kv_cache_size_tokens"] for row in rows))
    if isinstance(tokens, Unknown) and not isinstance(size, Unknown) and not isinstance(blocks, Unknown):
        tokens = size * blocks
    prefix, overridden = told("enable_prefix_caching"), {row["num_gpu_blocks_override"] for row in rows}
    return EngineConfig(
        batch_limit=_first(newest("batch_limit"), np.nan),
        kv_capacity_tokens=tokens,
        block_size=size,
        gpu_blocks=blocks,
        memory_share=number("gpu_memory_utilization"),
        cache_dtype=told("cache_dtype") or _NOT_TOLD,
        prefix_caching=prefix.lower() == "true" if prefix else _NOT_TOLD,
        blocks_overridden=bool(overridden - {"", "None"}) if rows else _NOT_TOLD,
    )


def _smallest(texts: Iterable[str]) -> float:
    """Return the smallest positive count of some labels; NaN where none of them is one."""
    counts = (float(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= _LONGEST)
    return min((count for count in counts if count > 0.0), default=np.nan)


def _number(text: str, name: str, *, differ: bool) -> Value:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if np.isfinite(value) and value >= 0.0:
        return value
    return Unknown(UnknownReason.NOT_MEASURED, f"its pods differ in {name}" if differ else f"no page tells {name}")


def _first(newest: Sequence[float], otherwise: Value) -> Value:
    """Return the smallest of what replicas said last; else something else, where that is known."""
    if newest:
        return min(newest)
    return otherwise if isinstance(otherwise, Unknown) or np.isfinite(otherwise) else _NOT_TOLD
