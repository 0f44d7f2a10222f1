"""What a container is, as far as its memory follows rules that its use does not show: engines, JVMs, host caches.

A JVM grows into the heap it was given whenever its garbage can wait, and an engine that keeps keys and values in the
host's memory pins what it was told to: what they use now is no measure of what they may take. Both are recognised by
their options, variables and images, and give a floor below which a request must not be cut. Sidecars and init
containers are told from the container that does the work. Nothing is guessed: where an option is not to be seen, the
floor is an `Unknown` and whoever sizes has to leave the memory alone.

Sources: the memory calculator of the Paketo buildpacks for a JVM outside its heap (240 MiB of code cache, 10 MiB of
direct buffers, stacks of 1 MiB), the JVM's own default of a quarter of its limit for the heap, vLLM's and LMCache's
documentation for `--swap-space`, `--cpu-offload-gb` and `LMCACHE_MAX_LOCAL_CPU_SIZE` (GiB a GPU; GB a worker).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Bytes
from optiinfra.domain.workload import ContainerFacts, Place

MEBIBYTE: Final = 2.0**20
GIBIBYTE: Final = 2.0**30
DEFAULT_HEAP_SHARE: Final = 0.25
"""Of the container's limit, where nobody gives the heap's size."""
CODE_CACHE: Final = 240.0 * MEBIBYTE
DIRECT_BUFFERS: Final = 10.0 * MEBIBYTE
STACKS: Final = 250.0 * MEBIBYTE
OUTSIDE_SHARE: Final = 0.25
"""A small JVM takes less outside its heap than the calculator's sum: at most this share of its heap is kept for it."""
_OUTSIDE_LEAST: Final = 64.0 * MEBIBYTE
_UNITS: Final = {"": 1.0, "k": 2.0**10, "m": 2.0**20, "g": 2.0**30, "t": 2.0**40}
_SIZE: Final = re.compile(r"(\d{1,15})([kmgt]?)", re.IGNORECASE)
_HEAP: Final = re.compile(r"(?:^|\s)-(?:Xmx|XX:MaxHeapSize=)(\d{1,15}[kmgt]?)(?=\s|$)", re.IGNORECASE)
_SHARE: Final = re.compile(r"(?:^|\s)-XX:MaxRAMPercentage=(\d{1,3}(?:\.\d{1,6})?)(?=\s|$)")
_OUTSIDE: Final = re.compile(
    r"(?:^|\s)-XX:(MaxMetaspaceSize|MaxDirectMemorySize|ReservedCodeCacheSize)=(\d{1,15}[kmgt]?)(?=\s|$)",
    re.IGNORECASE,
)
_JVM_IMAGE: Final = re.compile(
    r"(?:^|[/:_.-])(?:openjdk|(?:eclipse-)?temurin|(?:amazon)?corretto|zulu|semeru|graalvm|distroless/java\w*|java|jre|jdk"
    r"|tomcat|jetty|wildfly|quarkus-jvm|kafka|zookeeper|cassandra|elasticsearch|logstash|solr|keycloak)"
    r"(?:[/:@_.-]|\d|$)",
    re.IGNORECASE,
)
_CUDA_IMAGE: Final = re.compile(r"(?:^|[/:_.-])(?:cuda|cu1[0-9]{2}|nvcr\.io|tensorrt|triton)", re.IGNORECASE)
_JVM_PROGRAM: Final = re.compile(r"(?:\S*/)?java")
_JVM_VARIABLES: Final = re.compile(r"_?JAVA_(?:TOOL_)?OPTIONS|JDK_JAVA_OPTIONS|\w*(?:JAVA|JVM|HEAP|CATALINA)_OPTS\w*")
_SIDECAR_NAME: Final = re.compile(
    r"istio-proxy|linkerd-proxy|envoy\S*|consul-dataplane|daprd|queue-proxy|vault-agent\S*|cloud-?sql-?proxy|oauth2-proxy"
    r"|kube-rbac-proxy|fluent-?bit|fluentd|filebeat|promtail|vector|(?:otel|opentelemetry)\S*|datadog\S*|jaeger-agent"
    r"|\S*-(?:sidecar|exporter|proxy|agent)",
    re.IGNORECASE,
)
_HOST_FLAGS: Final = {"--swap-space": GIBIBYTE, "--cpu-offload-gb": GIBIBYTE}
"""Flags of vLLM that take host memory for each GPU, and their unit."""
_HOST_MEMORY: Final = re.compile(r"--(?:enable-hierarchical-cache|hicache-ratio|hicache-size|kv-offloading-size)")


class Role(StrEnum):
    """What a container is to its pod."""

    MAIN = "Main"
    """It does the pod's work."""
    SIDECAR = "Sidecar"
    """It serves the main one: a mesh's proxy, a collector of logs; native sidecars too."""
    INIT = "Init"
    """It ends before the others begin."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Memory that a container may come to take whatever it uses now."""

    memory: Value
    """Bytes; unknown where it is known to be reserved, but not how much."""
    why: str
    """In words, for the person who wonders: "-Xmx2g and 25 % outside the heap"."""
    follows_limit: bool = False
    """It is a share of the limit: another limit makes another floor."""


@dataclass(frozen=True, slots=True)
class ContainerNature:
    """What was recognised of one container."""

    role: Role
    model_server: bool = False
    cuda: bool = False
    """It computes on GPUs: what it loads onto them passes through the host's memory first."""
    heap: Floor | None = None
    """Of a JVM."""
    host_memory: Floor | None = None
    """Of an engine that keeps KV blocks or weights in the host's memory (pinned; it cannot be swapped or reclaimed)."""

    @property
    def floors(self) -> tuple[Floor, ...]:
        """What memory may not be cut below."""
        return tuple(floor for floor in (self.heap, self.host_memory) if floor is not None)

    @property
    def words(self) -> str:
        """Name it for people; empty for a plain container."""
        names = [
            "model server" if self.model_server else "",
            "JVM" if self.heap is not None else "",
            "pinned host memory" if self.host_memory is not None else "",
            "sidecar" if self.role is Role.SIDECAR else "",
            "init container" if self.role is Role.INIT else "",
        ]
        return ", ".join(name for name in names if name)


def recognise(
    container: ContainerFacts, *, others: Sequence[ContainerFacts] = (), engine: EngineSettings | None = None
) -> ContainerNature:
    """Say what a container is.

    Args:
        container: the container.
        others: the other containers of its pod that run beside it.
        engine: settings of the engine that the pod runs, where one was recognised; its `container` names it.
    """
    serves = engine is not None and bool(engine.container) and engine.container == container.name
    return ContainerNature(
        role=_role(container, others, serves=serves),
        model_server=serves,
        cuda=container.gpus > 0 or _CUDA_IMAGE.search(container.image) is not None,
        heap=_heap(container),
        host_memory=_host_memory(container, engine if serves else None),
    )


def _role(container: ContainerFacts, others: Sequence[ContainerFacts], *, serves: bool) -> Role:
    if container.place is Place.INIT:
        return Role.INIT
    if container.place is Place.SIDECAR:
        return Role.SIDECAR
    if serves or container.gpus > 0 or not others:
        return Role.MAIN
    if any(other.gpus > 0 for other in others) or _SIDECAR_NAME.fullmatch(container.name):
        return Role.SIDECAR
    return Role.MAIN


def _heap(container: ContainerFacts) -> Floor | None:
    options = _options(container)
    if not _is_jvm(container):
        return None
    if (found := _last(_HEAP.finditer(options))) is not None:
        largest = _bytes(found[1])
        outside = _outside(options, largest)
        return Floor(Bytes(largest + outside), f"a heap of {_sized(largest)} and {_sized(outside)} outside it")
    given = _last(_SHARE.finditer(options))
    share = min(1.0, float(given[1]) / 100.0) if given is not None else DEFAULT_HEAP_SHARE
    limit = container.memory_limit_bytes
    if isinstance(limit, Unknown):
        text = f"its heap may take {share:.0%} of the node's memory, because the container has no limit"
        return Floor(Unknown(UnknownReason.NOT_CONFIGURED, text), text)
    largest = share * limit
    outside = min(_outside(options, largest), max(0.0, limit - largest))
    told = "MaxRAMPercentage" if given is not None else "the JVM's default"
    text = f"a heap of {share:.0%} of the limit ({told}), {_sized(largest)}, and {_sized(outside)} outside it"
    return Floor(Bytes(largest + outside), text, follows_limit=True)


def _is_jvm(container: ContainerFacts) -> bool:
    if any(_JVM_VARIABLES.fullmatch(name) and value for name, value in container.environment.items()):
        return True
    words = " ".join(container.arguments)
    if _HEAP.search(words) or _SHARE.search(words):
        return True
    first = container.arguments[0] if container.arguments else ""
    return bool(_JVM_PROGRAM.fullmatch(first) or _JVM_IMAGE.search(container.image))


def _options(container: ContainerFacts) -> str:
    # A command line goes before the variables, and what comes last counts: variables first, then.
    variables = (value for name, value in container.environment.items() if _JVM_VARIABLES.fullmatch(name))
    return " ".join([*variables, *container.arguments])


def _outside(options: str, heap: float) -> float:
    """Return what a JVM may take outside its heap: what its options bound, else the calculator's figure, else a share.

    The metaspace has no bound of its own; a quarter of the heap stands for all that is not bounded.
    """
    bounds = {found[1].lower(): _bytes(found[2]) for found in _OUTSIDE.finditer(options)}
    if len(bounds) == 3:
        return sum(bounds.values()) + STACKS
    known = CODE_CACHE + DIRECT_BUFFERS + STACKS
    return max(_OUTSIDE_LEAST, min(known, OUTSIDE_SHARE * heap), *bounds.values())


def _host_memory(container: ContainerFacts, engine: EngineSettings | None) -> Floor | None:
    """Return the host memory that an engine was told to keep for KV blocks or weights."""
    gpus = max(1.0, container.gpus)
    parts: list[tuple[Value, str]] = []
    for flag, unit in _HOST_FLAGS.items():
        given = _flag(container, flag)
        if given is not None and given > 0.0:
            parts.append((given * unit * gpus, f"{flag} of {given:g} GiB for {gpus:g} GPUs"))
    if engine is not None:
        if not isinstance(engine.offload_bytes, Unknown):
            parts.append((engine.offload_bytes, f"KV offloading of {_sized(engine.offload_bytes)}"))
        if engine.lmcache is True:
            parts.append(_lmcache(engine, workers=gpus))
    if not parts and any(_HOST_MEMORY.match(argument.replace("_", "-")) for argument in container.arguments):
        text = "it keeps KV blocks in host memory, of a size that its options do not tell"
        return Floor(Unknown(UnknownReason.NOT_MEASURED, text), text)
    if not parts:
        return None
    unknown = next((value for value, _ in parts if isinstance(value, Unknown)), None)
    total: Value = unknown if unknown is not None else sum(v for v, _ in parts if not isinstance(v, Unknown))
    return Floor(total, "pinned host memory: " + ", ".join(words for _, words in parts))


def _lmcache(engine: EngineSettings, *, workers: float) -> tuple[Value, str]:
    pool = engine.lmcache_settings.local_bytes
    if isinstance(pool, Unknown):
        return Unknown(UnknownReason.NOT_MEASURED, "the size of LMCache's pool is not known"), "LMCache"
    known = engine.lmcache_settings.workers
    count = workers if isinstance(known, Unknown) else known
    return pool * count, f"LMCache with {_sized(pool)} for each of {count:g} workers"


def _flag(container: ContainerFacts, flag: str) -> float | None:
    """Return the number that a flag was given, written `--flag=4`, `--flag 4` or in one string for a shell."""
    words = " ".join(container.arguments).replace("_", "-")
    found = _last(re.finditer(rf"(?:^|\s){re.escape(flag)}[=\s]+(\d{{1,6}}(?:\.\d{{1,6}})?)(?=\s|$)", words))
    return float(found[1]) if found is not None else None


def _last(found: Iterable[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for match in found:
        last = match
    return last


def _bytes(written: str) -> float:
    match = _SIZE.fullmatch(written)
    assert match is not None, written
    return float(match[1]) * _UNITS[match[2].lower()]


def _sized(size: float) -> str:
    return f"{size / GIBIBYTE:.3g} GiB" if size >= GIBIBYTE else f"{size / MEBIBYTE:.0f} MiB"
