"""The settings an engine was started with: from the pod's arguments and environment, and from its page.

Where both speak, the page is believed, for it shows what runs; `auto` on the page means that nobody chose. A setting
that is given nowhere stays unknown: the engines' defaults drift between versions and hardware (vLLM's batch limit is
1024 or 256 by GPU), and a guessed default would become a wrong recommendation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import arguments
from optiinfra.engines.arguments import CommandLine


@dataclass(frozen=True, slots=True)
class _Names:
    """Where one engine takes its settings from: flags first, environment variables after."""

    programs: tuple[str, ...]
    batch_limit: tuple[str, ...] = ()
    step_tokens: tuple[str, ...] = ()
    context_tokens: tuple[str, ...] = ()
    gpu_memory_share: tuple[str, ...] = ()
    tensor_parallel: tuple[str, ...] = ()
    data_parallel: tuple[str, ...] = ()
    kv_capacity: tuple[str, ...] = ()
    kv_dtype: tuple[str, ...] = ()
    quantization: tuple[str, ...] = ()
    prefix_on: tuple[str, ...] = ()
    prefix_off: tuple[str, ...] = ()
    model: tuple[str, ...] = ("--model", "--model-path", "--model-id", "MODEL_ID", "NIM_MODEL_NAME")


_NAMES: Final[Mapping[EngineKind, _Names]] = {
    EngineKind.VLLM: _Names(
        programs=("vllm", "vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server"),
        batch_limit=("--max-num-seqs",),
        step_tokens=("--max-num-batched-tokens",),
        context_tokens=("--max-model-len",),
        gpu_memory_share=("--gpu-memory-utilization",),
        tensor_parallel=("--tensor-parallel-size", "-tp"),
        # --max-num-seqs is per data-parallel engine, and a page adds the engines of its pod up.
        data_parallel=("--data-parallel-size-local", "-dpl", "--data-parallel-size", "-dp"),
        kv_dtype=("--kv-cache-dtype",),
        quantization=("--quantization", "-q"),
        prefix_on=("--enable-prefix-caching",),
        prefix_off=("--no-enable-prefix-caching",),
    ),
    EngineKind.SGLANG: _Names(
        programs=("sglang", "sglang.launch_server", "sglang_router.launch_server"),
        batch_limit=("--max-running-requests",),
        step_tokens=("--chunked-prefill-size",),
        context_tokens=("--context-length",),
        gpu_memory_share=("--mem-fraction-static",),
        tensor_parallel=("--tensor-parallel-size", "--tp-size", "--tp"),
        kv_capacity=("--max-total-tokens",),
        kv_dtype=("--kv-cache-dtype",),
        quantization=("--quantization",),
        prefix_off=("--disable-radix-cache",),
    ),
    EngineKind.TGI: _Names(
        programs=("text-generation-launcher",),
        batch_limit=("--max-batch-size", "MAX_BATCH_SIZE"),
        step_tokens=("--max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS"),
        context_tokens=("--max-total-tokens", "MAX_TOTAL_TOKENS"),
        gpu_memory_share=("--cuda-memory-fraction", "CUDA_MEMORY_FRACTION"),
        tensor_parallel=("--num-shard", "NUM_SHARD"),
        kv_capacity=("--max-batch-total-tokens", "MAX_BATCH_TOTAL_TOKENS"),
        kv_dtype=("--kv-cache-dtype", "KV_CACHE_DTYPE"),
        quantization=("--quantize", "QUANTIZE"),
        prefix_on=("PREFIX_CACHING", "USE_PREFIX_CACHING"),
    ),
    EngineKind.TRTLLM: _Names(
        programs=("trtllm-serve",),
        batch_limit=("--max-batch-size",),
        step_tokens=("--max-num-tokens",),
        context_tokens=("--max-seq-len",),
        gpu_memory_share=("--kv-cache-free-gpu-memory-fraction",),
        tensor_parallel=("--tp-size",),
    ),
    EngineKind.NIM: _Names(
        programs=(),
        context_tokens=("NIM_MAX_MODEL_LEN",),
        gpu_memory_share=("NIM_KVCACHE_PERCENT",),
        tensor_parallel=("NIM_TENSOR_PARALLEL_SIZE",),
        prefix_on=("NIM_ENABLE_KV_CACHE_REUSE",),
    ),
    EngineKind.TRITON: _Names(programs=("tritonserver",)),
}
ENVIRONMENT: Final = frozenset(
    {
        name
        for names in _NAMES.values()
        for field in names.__dataclass_fields__
        if field != "programs"
        for name in getattr(names, field)
        if not name.startswith("-")
    }
) | {"LMCACHE_CONFIG_FILE"}
"""Environment variables that engines are configured by; `LMCACHE_*` besides. Whoever reads pods needs only these."""
_CONFIG_FILES: Final = frozenset({"--config", "--args-file", "--extra-llm-api-options", "--config-file"})
_QUANTISED_NAME: Final = re.compile(
    r"(?:^|[-_/.])(awq|gptq|fp8|nvfp4|mxfp4|fp4|int8|int4|w4a16|w8a8|w8a16|bnb|gguf|exl2|4bit|8bit)(?:$|[-_/.])",
    re.IGNORECASE,
)
_SHIPPED_QUANTISED: Final = re.compile(r"gpt-oss|deepseek-(?:v3|r1)|kimi-k2", re.IGNORECASE)
_TRUE: Final = frozenset({"", "1", "true", "yes", "on"})


def read(containers: tuple[ContainerFacts, ...], reading: EngineReading | None) -> EngineSettings:
    """Read the settings of the engine that one of the containers runs."""
    lines = tuple(arguments.parse(one.arguments, one.environment) for one in containers)
    index, engine = _find(containers, lines, reading)
    if index is None:
        return _from_page(EngineSettings(engine=engine), engine, reading)
    if isinstance(engine, Unknown):
        return EngineSettings(engine=engine, container=containers[index].name)
    names, source = _NAMES[engine], _Source(lines[index], containers[index].environment)
    limit = _positive(source, names.batch_limit)
    if not isinstance(limit, Unknown):
        engines = _positive(source, names.data_parallel[:2])
        if isinstance(engines, Unknown):
            engines = _positive(source, names.data_parallel[2:])
        limit *= 1.0 if isinstance(engines, Unknown) else engines
    quantization, quantization_known = _quantization(source, names, lines[index])
    settings = EngineSettings(
        engine=engine,
        version=reading.version if reading is not None else "",
        container=containers[index].name,
        batch_limit=limit,
        batch_limit_source="" if isinstance(limit, Unknown) else "argument",
        step_tokens=_positive(source, names.step_tokens),
        context_tokens=_positive(source, names.context_tokens),
        gpu_memory_share=_share(source, names.gpu_memory_share),
        tensor_parallel=_positive(source, names.tensor_parallel),
        kv_cache_capacity_tokens=_positive(source, names.kv_capacity),
        kv_cache_dtype=(source.text(names.kv_dtype) or "").lower(),
        quantization=quantization,
        quantization_known=quantization_known,
        prefix_caching=_prefix_caching(source, names),
        lmcache=_lmcache(containers[index], lines[index], reading),
    )
    return _from_page(settings, engine, reading)


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

    def why_not(self, names: tuple[str, ...]) -> Unknown:
        """Say why none of the names has a value."""
        if self.line.unresolved & set(names):
            return Unknown(UnknownReason.NOT_MEASURED, f"{names[0]} comes from a variable that is not literal")
        if _CONFIG_FILES & self.line.flags.keys():
            return Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments; a configuration file may set it")
        return Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments")


def _find(
    containers: tuple[ContainerFacts, ...], lines: tuple[CommandLine, ...], reading: EngineReading | None
) -> tuple[int | None, EngineKind | Unknown]:
    """Return the container that runs the engine, and which engine it is."""
    for index, line in enumerate(lines):
        kind = _program(line)
        if kind is not None and (reading is None or reading.engine is kind or reading.engine is EngineKind.NIM):
            return index, reading.engine if reading is not None else kind
    if reading is not None:
        names = _NAMES[reading.engine]
        ranked = sorted(
            range(len(containers)),
            key=lambda index: (-_hits(names, lines[index], containers[index].environment), -containers[index].gpus),
        )
        return (ranked[0] if ranked else None), reading.engine
    for index, line in enumerate(lines):
        kinds = [kind for kind, names in _NAMES.items() if _hits(names, line, containers[index].environment)]
        if len(kinds) == 1:
            return index, kinds[0]
    return None, Unknown(UnknownReason.NOT_MEASURED, "neither arguments nor a page name the engine")


def _program(line: CommandLine) -> EngineKind | None:
    # Only words before the first flag, and modules behind -m, name a program: values of flags may be anything.
    for index, token in enumerate(line.tokens):
        follows = line.tokens[index - 1] if index else ""
        if token.startswith("-") or (follows.startswith("-") and follows != "-m"):
            continue
        word = token.rpartition("/")[2]
        for kind, names in _NAMES.items():
            if word in names.programs:
                return kind
    return None


def _hits(names: _Names, line: CommandLine, environment: Mapping[str, str]) -> int:
    flags = {
        name
        for field in names.__dataclass_fields__
        if field not in {"programs", "model"}
        for name in getattr(names, field)
    }
    return len(flags & (line.flags.keys() | line.unresolved)) + len(flags & environment.keys())


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


def _prefix_caching(source: _Source, names: _Names) -> bool | Unknown:
    if source.text(names.prefix_off) is not None:
        return False
    given = source.text(names.prefix_on)
    if given is None:
        return source.why_not((*names.prefix_on, *names.prefix_off))
    return given.strip().lower() in _TRUE


def _quantization(source: _Source, names: _Names, line: CommandLine) -> tuple[str, bool]:
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
    """Return the positional model of `vllm serve MODEL`."""
    for index, word in enumerate(line.tokens[:-1]):
        if word == "serve" and not line.tokens[index + 1].startswith("-"):
            return line.tokens[index + 1]
    return None


def _lmcache(container: ContainerFacts, line: CommandLine, reading: EngineReading | None) -> bool | Unknown:
    if reading is not None and Signal.LMCACHE_REQUESTED_TOKENS in reading.counters:
        return True
    connector = line.flags.get("--kv-transfer-config", "")
    if "lmcache" in connector.lower() or "--enable-lmcache" in line.flags:
        return True
    if line.flags.get("--kv-offloading-backend", "").lower() == "lmcache":
        return True
    if any(name.startswith("LMCACHE_") for name in container.environment):
        return True
    if not line.tokens or _CONFIG_FILES & line.flags.keys() or "--kv-transfer-config" in line.unresolved:
        return Unknown(UnknownReason.NOT_MEASURED, "neither arguments nor page tell")
    return False


def _from_page(settings: EngineSettings, engine: EngineKind | Unknown, reading: EngineReading | None) -> EngineSettings:
    """Let the page correct what the arguments say."""
    if reading is None or isinstance(engine, Unknown):
        return settings
    changes: dict[str, object] = {}
    facts = reading.facts
    limit = reading.gauges.get(Signal.BATCH_LIMIT)
    if limit:
        changes |= {"batch_limit": limit, "batch_limit_source": "page"}
    capacity = reading.gauges.get(Signal.KV_CACHE_CAPACITY_TOKENS)
    if capacity:
        changes["kv_cache_capacity_tokens"] = capacity
    if dtype := facts.get("cache_dtype", "").lower():
        changes["kv_cache_dtype"] = dtype
    if (caching := facts.get("enable_prefix_caching")) is not None:
        changes["prefix_caching"] = caching == "True"
    share = arguments.number(facts.get("gpu_memory_utilization", ""))
    if share is not None and 0.0 < share <= 1.0:
        changes["gpu_memory_share"] = share
    return EngineSettings(**({name: getattr(settings, name) for name in settings.__dataclass_fields__} | changes))
