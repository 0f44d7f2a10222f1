"""The settings an engine was started with: from the pod's arguments and environment, and from its page.

Where both speak, the page is believed, for it shows what runs; `auto` on the page means that nobody chose. A setting
that is given nowhere stays unknown: the engines' defaults drift between versions and hardware (vLLM's batch limit is
1024 or 256 by GPU), and a guessed default would become a wrong recommendation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings, LMCacheSettings
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import arguments, json_flags, lmcache_settings, page_settings
from optiinfra.engines.arguments import CommandLine
from optiinfra.engines.json_flags import JsonMap
from optiinfra.engines.lmcache import WORKERS
from optiinfra.engines.setting_names import CONFIG_FILES, ENVIRONMENT, NAMES, Names, names_in

__all__ = ["ENVIRONMENT", "read"]

_QUANTISED_NAME: Final = re.compile(
    r"(?:^|[-_/.])(awq|gptq|fp8|nvfp4|mxfp4|fp4|int8|int4|w4a16|w8a8|w8a16|bnb|gguf|exl2|4bit|8bit)(?:$|[-_/.])",
    re.IGNORECASE,
)
_RUNS: Final = re.compile(r"-(?:m|[a-z]*c)")
_SHIPPED_QUANTISED: Final = re.compile(r"gpt-oss|deepseek-(?:v3|r1)|kimi-k2", re.IGNORECASE)


_FALSE: Final = frozenset({"0", "false", "no", "off"})
_ROLES: Final[Mapping[str, str]] = {
    "kv_producer": "Prefill",
    "kv_consumer": "Decode",
    "prefill": "Prefill",
    "decode": "Decode",
    "context": "Prefill",
    "generation": "Decode",
}
_MODEL_LENGTH: Final = 256


def read(containers: tuple[ContainerFacts, ...], reading: EngineReading | None) -> EngineSettings:
    """Read the settings of the engine that one of the containers runs."""
    lines = tuple(arguments.parse(one.arguments, one.environment) for one in containers)
    index, engine = _find(containers, lines, reading)
    if index is None:
        return page_settings.corrected(EngineSettings(engine=engine), reading)
    if isinstance(engine, Unknown):
        return EngineSettings(engine=engine, container=containers[index].name)
    container, line = containers[index], lines[index]
    names, source = NAMES[engine], _Source(line, container.environment)
    quantization, quantization_known = _quantization(source, names, line)
    transfer = json_flags.read(line, "--kv-transfer-config")
    lmcache = _lmcache(container, line, transfer, reading)
    settings = EngineSettings(
        engine=engine,
        version=reading.version if reading is not None else "",
        container=container.name,
        batch_limit=(limit := _batch_limit(source, names)),
        batch_limit_source="" if isinstance(limit, Unknown) else "argument",
        step_tokens=_positive(source, names.step_tokens),
        context_tokens=_positive(source, names.context_tokens),
        gpu_memory_share=_share(source, names.gpu_memory_share),
        tensor_parallel=_positive(source, names.tensor_parallel),
        pipeline_parallel=_positive(source, names.pipeline_parallel),
        data_parallel=_positive(source, names.data_parallel),
        block_size=_positive(source, names.block_size),
        kv_blocks=_positive(source, names.kv_blocks),
        kv_cache_bytes=_positive(source, names.kv_bytes),
        kv_cache_capacity_tokens=_positive(source, names.kv_capacity),
        kv_cache_dtype=(source.text(names.kv_dtype) or "").lower(),
        model=(source.text(names.model) or _served_model(line) or "")[:_MODEL_LENGTH],
        model_dtype=(source.text(names.dtype) or "").lower()[:40],
        quantization=quantization,
        quantization_known=quantization_known,
        prefix_caching=_switch(source, names.prefix_on, names.prefix_off),
        chunked_prefill=_chunked(source, names),
        speculative=_speculative(source, names),
        lora_limit=_positive(source, names.lora_limit),
        queue_limit=_positive(source, names.queue_limit),
        offload_bytes=_scaled(_positive(source, names.offload), names.offload_unit),
        role=_role(line, transfer),
        lmcache=lmcache,
        lmcache_settings=_lmcache_settings(container, transfer, reading) if lmcache is True else LMCacheSettings(),
    )
    return page_settings.corrected(settings, reading)


_NOT_AMONG: Final = Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments")


@dataclass(frozen=True, slots=True)
class _Source:
    line: CommandLine
    environment: Mapping[str, str]

    def text(self, names: tuple[str, ...]) -> str | None:
        """Return the first setting that was given, flags before variables."""
        for name in names:
            found = self.line.flags.get(name) if name.startswith("-") else self.environment.get(name)
            if found is not None:
                return found
        return None

    def dotted(self, names: tuple[str, ...]) -> bool:
        """Tell whether a JSON flag was given key by key."""
        return any(flag.startswith(f"{name}.") for name in names for flag in self.line.flags)

    def why_not(self, names: tuple[str, ...]) -> Unknown:
        """Say why none of the names has a value."""
        if self.line.unresolved & set(names):
            return Unknown(UnknownReason.NOT_MEASURED, f"{names[0]} comes from a variable that is not literal")
        if CONFIG_FILES & self.line.flags.keys():
            return Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments; a configuration file may set it")
        return _NOT_AMONG


def _find(
    containers: tuple[ContainerFacts, ...], lines: tuple[CommandLine, ...], reading: EngineReading | None
) -> tuple[int | None, EngineKind | Unknown]:
    """Return the container that runs the engine, and which engine it is."""
    for index, line in enumerate(lines):
        kind = _program(line)
        if kind is not None and (reading is None or reading.engine is kind or reading.engine is EngineKind.NIM):
            return index, reading.engine if reading is not None else kind
    if reading is not None:
        names = NAMES[reading.engine]
        ranked = sorted(
            range(len(containers)),
            key=lambda index: (-_hits(names, lines[index], containers[index].environment), -containers[index].gpus),
        )
        return (ranked[0] if ranked else None), reading.engine
    for index, line in enumerate(lines):
        kinds = [kind for kind, names in NAMES.items() if _hits(names, line, containers[index].environment)]
        if len(kinds) == 1:
            return index, kinds[0]
    return None, Unknown(UnknownReason.NOT_MEASURED, "neither arguments nor a page name the engine")


def _program(line: CommandLine) -> EngineKind | None:
    # Only words that are no flag's value, modules behind -m and a shell's script behind -c name a program.
    for index, token in enumerate(line.tokens):
        follows = line.tokens[index - 1] if index else ""
        if token.startswith("-") or (follows.startswith("-") and _RUNS.fullmatch(follows) is None):
            continue
        word = token.rpartition("/")[2]
        for kind, names in NAMES.items():
            if word in names.programs:
                return kind
    return None


def _hits(names: Names, line: CommandLine, environment: Mapping[str, str]) -> int:
    flags = names_in(names, without=frozenset({"model"}))
    return len(flags & (line.flags.keys() | line.unresolved)) + len(flags & environment.keys())


def _batch_limit(source: "_Source", names: Names) -> Value:
    limit = _positive(source, names.batch_limit)
    if isinstance(limit, Unknown) or not names.limit_is_of_one_engine:
        return limit
    # Those of this pod before those of all pods.
    engines = _positive(source, names.data_parallel)
    return limit if isinstance(engines, Unknown) else limit * engines


def _positive(source: _Source, names: tuple[str, ...]) -> Value:
    text = source.text(names)
    if text is None:
        return source.why_not(names)
    value = arguments.number(text)
    if value is None or value <= 0.0:
        # -1, 0 and "auto" leave the choice to the engine.
        return Unknown(UnknownReason.NOT_MEASURED, f"left to the engine ({text[:20]})")
    return value


def _share(source: _Source, names: tuple[str, ...]) -> Value:
    value = _positive(source, names)
    if not isinstance(value, Unknown) and value > 1.0:
        return Unknown(UnknownReason.INVALID, f"a share above 1: {value:g}")
    return value


def _scaled(value: Value, unit: float) -> Value:
    return value if isinstance(value, Unknown) else value * unit


def _switch(source: _Source, on: tuple[str, ...], off: tuple[str, ...]) -> bool | Unknown:
    """Read a switch, its negation, or its value; the engines' own defaults drift and are not guessed."""
    denied = source.text(off)
    if denied is not None:
        return denied.strip().lower() in _FALSE
    given = source.text(on)
    if given is None:
        return source.why_not((*on, *off))
    # A switch may stand before a word that is not its value.
    return given.strip().lower() not in _FALSE


def _chunked(source: _Source, names: Names) -> bool | Unknown:
    if names.chunked_on or names.chunked_off:
        return _switch(source, names.chunked_on, names.chunked_off)
    size = source.text(("--chunked-prefill-size",))
    if size is None:
        return source.why_not(("--chunked-prefill-size",))
    value = arguments.number(size)
    return value > 0.0 if value is not None else source.why_not(("--chunked-prefill-size",))


def _speculative(source: _Source, names: Names) -> bool | Unknown:
    """Speculation is off unless somebody asks for it, in every engine; only a file may hide that it was asked for."""
    given = source.text(names.speculative)
    if given is not None or source.dotted(names.speculative):
        return (given or "").strip().lower() not in {"none", "null", "0"}
    missing = source.why_not(names.speculative)
    return False if names.speculative and missing == _NOT_AMONG and source.line.tokens else missing


def _role(line: CommandLine, transfer: JsonMap | Unknown | None) -> str:
    if "--is-prefill-worker" in line.flags:
        return "Prefill"
    if "--is-decode-worker" in line.flags:
        return "Decode"
    for flag in ("--disaggregation-mode", "--server-role"):
        if (role := _ROLES.get(line.flags.get(flag, "").lower())) is not None:
            return role
    if transfer is None or isinstance(transfer, Unknown):
        return ""
    return _ROLES.get(json_flags.text(transfer, "kv_role").lower(), "")


def _quantization(source: _Source, names: Names, line: CommandLine) -> tuple[str, bool]:
    given = source.text(names.quantization)
    if given is not None and given.strip().lower() not in {"", "none", "null"}:
        return given.strip().lower()[:40], True
    model = source.text(names.model) or _served_model(line)
    if not model:
        return "", False
    hint = _QUANTISED_NAME.search(model)
    if hint is not None:
        return hint[1].lower(), True
    # A path says nothing about what lies there, and some families ship quantised without saying so in their name.
    return "", not model.startswith(("/", ".", "s3:", "gs:")) and _SHIPPED_QUANTISED.search(model) is None


def _served_model(line: CommandLine) -> str | None:
    """Return the positional model of `vllm serve MODEL` or `trtllm-serve MODEL`."""
    for index, word in enumerate(line.tokens[:-1]):
        follows = line.tokens[index + 1]
        is_command = word == "serve" or word.rpartition("/")[2] == "trtllm-serve"
        if is_command and not follows.startswith("-") and follows != "serve":
            return follows
    return None


def _lmcache(
    container: ContainerFacts,
    line: CommandLine,
    transfer: JsonMap | Unknown | None,
    reading: EngineReading | None,
) -> bool | Unknown:
    if reading is not None and Signal.LMCACHE_REQUESTED_TOKENS in reading.counters:
        return True
    if transfer is not None and not isinstance(transfer, Unknown):
        for connector in json_flags.connectors(transfer):
            if "lmcache" in json_flags.text(connector, "kv_connector").lower():
                return True
    if "lmcache" in line.flags.get("--kv-transfer-config", "").lower() or "--enable-lmcache" in line.flags:
        return True
    if "lmcache" in {line.flags.get("--kv-offloading-backend", "").lower(), line.flags.get("--connector", "").lower()}:
        return True
    if any(name.startswith("LMCACHE_") for name in container.environment):
        return True
    if not line.tokens or CONFIG_FILES & line.flags.keys() or isinstance(transfer, Unknown):
        return Unknown(UnknownReason.NOT_MEASURED, "neither arguments nor page tell")
    return False


def _lmcache_settings(
    container: ContainerFacts,
    transfer: JsonMap | Unknown | None,
    reading: EngineReading | None,
) -> LMCacheSettings:
    known = None if isinstance(transfer, Unknown) else transfer
    counted = arguments.number(reading.facts.get(WORKERS, "")) if reading is not None else None
    workers: Value = counted or container.gpus
    if not workers:
        workers = Unknown(UnknownReason.NOT_MEASURED, "neither the page nor the container's GPUs tell")
    return lmcache_settings.read(container.environment, known, workers=workers)
