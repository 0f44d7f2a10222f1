"""What to ask about the engines of a fleet: load, queues, KV caches and latencies, one series a workload.

The names come from the engines' own tables (`vllm`, `sglang`, ...), newest first: of one pod the newest name that is
there is read, so that a fleet of mixed versions is one fleet. A question is named after the engine and the field of
`domain.report.history` that it fills: `vllm.prompt_tokens`. Percentiles need every bucket of a histogram, which is what
brings servers down: over the whole range only a mean and one bucket are read, all buckets only of the last day.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import Found, Spelling
from optiinfra.engines import lmcache, nim, sglang, tgi, triton, trtllm, vllm
from optiinfra.engines.alias import Alias, Table
from optiinfra.engines.promql_fleet_parts import (
    HOURLY_S,
    WORKLOAD,
    either,
    largest,
    over_window,
    own_labels,
    question,
    select,
    together,
    with_workload,
)

_DAY: Final = "1d"
_FINE: Final = frozenset(
    {
        "serving",
        "prompt_tokens",
        "generation_tokens",
        "running",
        "running_highest",
        "waiting",
        "waiting_highest",
        "kv_usage_highest",
        "queue_mean",
    }
)
"""What the replay, capacities and the search for batch limits read step by step; all else is judged by the hour."""
_FIRST_BOUNDS: Final = "2|2.0|2.5"
_EACH_BOUNDS: Final = "0.1"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine and how its questions are named."""

    name: str
    kind: EngineKind
    tables: tuple[Table, ...]
    """More than one where the same families come under several prefixes."""
    parts: tuple[str, ...] = ()
    """Labels that tell series of one process apart that add up. All others, ranks and copies among them, do not."""


_VLLM_PARTS: Final = ("engine", "WorkerId", "finished_reason", "reason")
ENGINES: Final = (
    Engine("vllm", EngineKind.VLLM, (vllm.TABLE, vllm.RAY_TABLE, vllm.RAY_SANITISED_TABLE), _VLLM_PARTS),
    Engine("sglang", EngineKind.SGLANG, (sglang.TABLE,), ("dp_rank", "mode", "cache_source")),
    Engine("tgi", EngineKind.TGI, (tgi.TABLE,), ("err",)),
    Engine("trtllm", EngineKind.TRTLLM, (trtllm.TABLE, trtllm.DYNAMO_TABLE), ("finished_reason",)),
    Engine("nim", EngineKind.NIM, (nim.TABLE,), ("finished_reason",)),
    Engine("triton", EngineKind.TRITON, (triton.TABLE,), ("model",)),
)
RATES: Final = (
    ("prompt_tokens", Signal.PROMPT_TOKENS),
    ("generation_tokens", Signal.GENERATION_TOKENS),
    ("requests", Signal.REQUESTS_FINISHED),
    ("preemptions", Signal.PREEMPTIONS),
    ("rejected", Signal.REQUESTS_REJECTED),
    ("failed", Signal.REQUESTS_FAILED),
    ("aborted", Signal.REQUESTS_ABORTED),
)
_LENGTHS: Final = {
    Signal.PROMPT_TOKENS: Signal.REQUEST_PROMPT_TOKENS,
    Signal.GENERATION_TOKENS: Signal.REQUEST_GENERATION_TOKENS,
}
"""Histograms whose sums count tokens where no counter does."""
MEANS: Final = (
    ("ttft_mean", Signal.TIME_TO_FIRST_TOKEN),
    ("itl_mean", Signal.INTER_TOKEN_LATENCY),
    ("queue_mean", Signal.QUEUE_TIME),
    ("latency_mean", Signal.REQUEST_LATENCY),
)
LATE: Final = (
    ("ttft", Signal.TIME_TO_FIRST_TOKEN, _FIRST_BOUNDS),
    ("itl", Signal.INTER_TOKEN_LATENCY, _EACH_BOUNDS),
)
CACHE_RATES: Final = (
    ("requested_tokens", Signal.LMCACHE_REQUESTED_TOKENS),
    ("hit_tokens", Signal.LMCACHE_HIT_TOKENS),
    ("stored_tokens", Signal.LMCACHE_STORED_TOKENS),
    ("evictions", Signal.LMCACHE_EVICTIONS),
)
CACHE_LEVELS: Final = (
    ("local_bytes", Signal.LMCACHE_LOCAL_USAGE_BYTES),
    ("disk_bytes", Signal.LMCACHE_DISK_USAGE_BYTES),
    ("remote_bytes", Signal.LMCACHE_REMOTE_USAGE_BYTES),
)
CONFIG_LABELS: Final = (
    "block_size",
    "num_gpu_blocks",
    "num_gpu_blocks_override",
    "kv_cache_size_tokens",
    "gpu_memory_utilization",
    "cache_dtype",
    "enable_prefix_caching",
)
"""Labels of vLLM's cache_config_info."""
CACHE_NAMES: Final = ("lmcache:num_requested_tokens_total", "lmcache_mp_lookup_requested_tokens_total")
Term = tuple[str, tuple[str, ...]]
"""A series' name and what else selects it."""


def running_names(engine: Engine) -> tuple[str, ...]:
    """Return the series that every page of an engine has: requests in the batch."""
    return tuple(dict.fromkeys(name for name, _ in _Asker(engine, Found()).terms(Signal.REQUESTS_RUNNING)))


def sharing_questions(found: Found) -> tuple[Question, ...]:
    """Return what to ask to know whether pages come more than once: ranks that share one, and copies."""
    return tuple(_Asker(engine, found).sharing() for engine in ENGINES if found.has(*running_names(engine)))


def engine_questions(found: Found) -> Iterator[Question]:
    """Yield what to ask about each engine that is there."""
    for engine in ENGINES:
        if not found.has(*running_names(engine)):
            continue
        asker = _Asker(engine, found)
        yield from asker.presence()
        yield from asker.load()
        yield from asker.kv_cache()
        yield from asker.latencies()
        yield from asker.settings()
    if not found.has(*CACHE_NAMES):
        return
    cache = _Asker(Engine("lmcache", EngineKind.VLLM, lmcache.GUESTS, ("worker_id",)), found)
    yield from cache.rates(CACHE_RATES)
    for field, signal in CACHE_LEVELS:
        yield from cache.level(field, signal, "sum")


class _Asker:
    """Writes the questions of one engine."""

    def __init__(self, engine: Engine, found: Found) -> None:
        self.engine = engine
        self.spelling: Spelling = found.engines
        self.images = found.names is not None and found.has("kube_pod_container_info")
        # Copies of a server are told apart by whoever asks, and only where each call sees them.
        self.single = engine.name in found.single and not found.copies
        self.may_exist = found.may_exist
        there = tuple(table for table in engine.tables if found.names is None or _is_there(table, found.names))
        self.tables = there or engine.tables

    def sharing(self) -> Question:
        """Ask how many series of one name come from one part of one process, at the most."""
        terms = self.terms(Signal.REQUESTS_RUNNING)
        by = ("__name__", *self._identity)
        counted = either(*(together("count", select(name, *only), by) for name, only in terms))
        text = together("max", counted, ("__name__",))
        return question(
            f"found.sharing.{self.engine.name}",
            text,
            metrics=[name for name, _ in terms],
            by=("__name__",),
            split_by="",
            coarse_s=HOURLY_S,
        )

    def terms(self, signal: Signal, suffix: str = "") -> list[Term]:
        """Return the series that carry a signal, best first."""
        listed: list[Term] = []
        for table in self.tables:
            alias = next((one for one in table.aliases if one.signal is signal), None)
            if alias is not None:
                listed += [_term(table, alias, place, suffix) for place in range(len(alias.names))]
        return listed

    def presence(self) -> Iterator[Question]:
        """Which workloads serve, under which names."""
        terms = self._existing(self.terms(Signal.REQUESTS_RUNNING))
        own = (*own_labels(self.spelling), *(("instance",) if self.spelling.by_service else ()))
        pods = either(*(largest(select(name, *only), own) for name, only in terms))
        yield self._question("serving", together("count", with_workload(pods, self.spelling)), terms)
        label = self.tables[0].model_label
        if label:
            named = either(*(largest(select(name, *only), (*own, label)) for name, only in terms))
            by = (*WORKLOAD, label)
            yield self._question("models", together("count", with_workload(named, self.spelling), by), terms, by=by)

    def load(self) -> Iterator[Question]:
        """Tokens, requests, queues."""
        yield from self.rates(RATES)
        for field, signal in (("running", Signal.REQUESTS_RUNNING), ("waiting", Signal.REQUESTS_WAITING)):
            yield from self.level(field, signal, "sum")
        yield from self.level("running_highest", Signal.REQUESTS_RUNNING, "max", function="max_over_time")
        yield from self.level("waiting_highest", Signal.REQUESTS_WAITING, "sum", function="max_over_time")
        resets = self.terms(Signal.GENERATION_TOKENS) or self.terms(Signal.REQUEST_GENERATION_TOKENS, "_sum")
        if resets:
            resets = self._existing(resets)
            yield self._question("resets", self._summed("resets", resets), resets)

    def kv_cache(self) -> Iterator[Question]:
        """KV cache and prefix caches."""
        yield from self.level("kv_usage", Signal.KV_CACHE_USAGE, "avg")
        yield from self.level("kv_usage_highest", Signal.KV_CACHE_USAGE, "max", function="max_over_time")
        yield from self._hit_ratio(
            "prefix_hit_ratio", Signal.PREFIX_CACHE_HITS, Signal.PREFIX_CACHE_QUERIES, Signal.PROMPT_TOKENS
        )
        yield from self.level("prefix_hit_gauge", Signal.PREFIX_CACHE_HIT_RATIO, "avg")
        yield from self._hit_ratio(
            "external_hit_ratio", Signal.EXTERNAL_CACHE_HITS, Signal.EXTERNAL_CACHE_QUERIES, None
        )
        if self.engine.kind is EngineKind.TGI:
            names = tuple(
                f"{tgi.TABLE.prefix}{name}" for name in ("batch_current_max_tokens", "batch_max_total_tokens")
            )
            reserved, capacity = (largest(over_window("avg_over_time", name), self._identity) for name in names)
            share = with_workload(f"({reserved} / {capacity})", self.spelling)
            yield self._question("kv_reserved", together("avg", share), [(name, ()) for name in names])

    def latencies(self) -> Iterator[Question]:
        """Means and late shares over time, percentiles of the last day."""
        for field, signal in MEANS:
            sums, counts = (self._existing(self.terms(signal, suffix)) for suffix in ("_sum", "_count"))
            if sums:
                mean = f"{self._summed('rate', sums)} / {self._summed('rate', counts)}"
                yield self._question(field, mean, [*sums, *counts])
        for prefix, signal, bounds in LATE:
            buckets, counts = (self._existing(self.terms(signal, suffix)) for suffix in ("_bucket", "_count"))
            if not buckets or self.engine.kind in {EngineKind.TGI, EngineKind.TRITON}:
                continue
            early = [(name, (*only, f'le=~"{bounds}"')) for name, only in buckets]
            share = f"1 - {self._summed('rate', early)} / {self._summed('rate', counts)}"
            yield self._question(f"{prefix}_late", share, [*buckets, *counts])
            by = (*self._identity, "le")
            rates = either(*(largest(f"rate({select(name, *only)}[{_DAY}])", by) for name, only in buckets))
            pooled = together("sum", with_workload(rates, self.spelling), (*WORKLOAD, "le"))
            yield self._question(f"{prefix}_p95", f"histogram_quantile(0.95, {pooled})", buckets, latest=True)

    def settings(self) -> Iterator[Question]:
        """Limits and capacities, as last told."""
        yield from self._newest("batch_limit", self.terms(Signal.BATCH_LIMIT))
        prefix = self.tables[0].prefix
        if self.engine.kind is EngineKind.SGLANG:
            yield from self._newest("kv_capacity", [(f"{prefix}max_total_num_tokens", ())])
        elif self.engine.kind is EngineKind.TGI:
            yield from self._newest("kv_capacity", [(f"{prefix}batch_max_total_tokens", ())])
        elif self.engine.kind is EngineKind.TRTLLM:
            yield from self._newest("gpu_blocks", [(f"{one.prefix}kv_cache_max_blocks", ()) for one in self.tables])
            names = [(f"{one.prefix}kv_cache_tokens_per_block", ()) for one in self.tables]
            yield from self._newest("block_size", names)
        elif self.engine.kind is EngineKind.TRITON:
            for field, kind in (("gpu_blocks", "max"), ("block_size", "tokens_per")):
                only = (f'kv_cache_block_type="{kind}"',)
                yield from self._newest(field, [(f"{prefix}kv_cache_block_metrics", only)])
        elif self.engine.kind is EngineKind.VLLM:
            yield self._config()
            if not self.images:
                yield self._versions()

    def rates(self, wanted: Sequence[tuple[str, Signal]]) -> Iterator[Question]:
        """Counters per second."""
        for field, signal in wanted:
            terms = self.terms(signal)
            if not terms and signal in _LENGTHS:
                terms = self.terms(_LENGTHS[signal], "_sum")
            if not terms and self.engine.kind is EngineKind.TGI:
                terms = _TGI_ENDINGS.get(signal, [])
            if not terms and self.engine.kind is EngineKind.TRITON and signal is Signal.REQUESTS_FINISHED:
                terms = [("nv_inference_request_success", ())]
            if terms:
                terms = self._existing(terms)
                yield self._question(field, self._summed("rate", terms), terms)

    def level(
        self, field: str, signal: Signal, operator: str, *, function: str = "avg_over_time"
    ) -> Iterator[Question]:
        """Gauges over the window."""
        terms = self.terms(signal)
        if terms:
            terms = self._existing(terms)
            pods = self._one_each([over_window(function, name, *only) for name, only in terms])
            yield self._question(field, together(operator, with_workload(pods, self.spelling)), terms)

    def _hit_ratio(self, field: str, hits: Signal, queries: Signal, instead: Signal | None) -> Iterator[Question]:
        of = self._existing(self.terms(hits))
        asked = self._existing(self.terms(queries) or (self.terms(instead) if instead is not None else []))
        if of and asked:
            share = f"{self._summed('rate', of)} / {self._summed('rate', asked)}"
            yield self._question(field, share, [*of, *asked])

    def _newest(self, field: str, terms: Sequence[Term]) -> Iterator[Question]:
        if terms:
            listed = (f"last_over_time({select(name, *only)}[{_DAY}])" for name, only in terms)
            pods = either(*(largest(one, self._identity) for one in listed))
            yield self._question(field, together("min", with_workload(pods, self.spelling)), terms, latest=True)

    def _config(self) -> Question:
        names = [f"{table.prefix}{table.info}" for table in self.tables]
        told = (*own_labels(self.spelling), *CONFIG_LABELS)
        pods = either(*(largest(f"last_over_time({select(name)}[{_DAY}])", told) for name in names))
        by = (*WORKLOAD, *CONFIG_LABELS)
        text = together("count", with_workload(pods, self.spelling), by)
        return self._question("config", text, [(name, ()) for name in names], by=by, latest=True)

    def _versions(self) -> Question:
        """Families that only old or only new versions have; the pages carry no version."""
        parts, terms = [], []
        for family, version in _VERSION_SIGNS:
            listed = [(f"{table.prefix}{family}", ()) for table in self.tables]
            pods = either(*(largest(select(name), own_labels(self.spelling)) for name, _ in listed))
            counted = together("count", with_workload(pods, self.spelling))
            parts.append(f'label_replace({counted}, "version", "{version}", "", "")')
            terms += listed
        return self._question("versions", " or ".join(parts), terms, by=(*WORKLOAD, "version"))

    @property
    def _identity(self) -> tuple[str, ...]:
        return (*own_labels(self.spelling), "instance", *self.engine.parts)

    def _summed(self, function: str, terms: Sequence[Term]) -> str:
        """Return a counter's growth a workload. Alternatives are chosen by pod, so their parts are added up before."""
        listed = [over_window(function, name, *only) for name, only in terms]
        if not self.single:
            listed = [largest(one, self._identity) for one in listed]
        if len(listed) > 1:
            listed = [together("sum", one, (*own_labels(self.spelling), "instance")) for one in listed]
        return together("sum", with_workload(either(*listed), self.spelling))

    def _one_each(self, alternatives: Sequence[str]) -> str:
        """Return one series for each part of a process, of the first alternative that it has."""
        if self.single and len(alternatives) > 1:
            same = ",".join(self._identity)
            return f"({f' or on ({same}) '.join(alternatives)})"
        return either(*(alternatives if self.single else (largest(one, self._identity) for one in alternatives)))

    def _existing(self, terms: Sequence[Term]) -> list[Term]:
        """Return the alternatives that exist: each costs the server a step of work, there or not."""
        return [term for term in terms if self.may_exist(term[0])] or list(terms)

    def _question(
        self,
        field: str,
        promql: str,
        terms: Sequence[Term],
        *,
        by: tuple[str, ...] = WORKLOAD,
        latest: bool = False,
    ) -> Question:
        return question(
            f"{self.engine.name}.{field}",
            promql,
            metrics=[name for name, _ in terms],
            by=by,
            split_by=self.spelling.namespace[-1],
            latest=latest,
            coarse_s=0.0 if latest or field in _FINE else HOURLY_S,
            events=field == "resets",
        )


_VERSION_SIGNS: Final = (
    ("kv_cache_usage_perc", ">=0.9"),
    ("gpu_cache_usage_perc", "<0.12"),
    ("cpu_cache_usage_perc", "V0"),
)
_TGI_ENDINGS: Final[dict[Signal, list[Term]]] = {
    Signal.REQUESTS_FINISHED: [(f"{tgi.TABLE.prefix}request_success", ())],
    Signal.REQUESTS_FAILED: [(f"{tgi.TABLE.prefix}request_failure", ('err!~"overloaded|validation"',))],
    Signal.REQUESTS_REJECTED: [(f"{tgi.TABLE.prefix}request_failure", ('err="overloaded"',))],
}


def _term(table: Table, alias: Alias, place: int, suffix: str) -> Term:
    name = alias.names[place]
    if name.only is None:
        return table.full(name) + suffix, ()
    label, values = name.only
    wanted = sorted(values)
    matcher = f'{label}="{wanted[0]}"' if len(wanted) == 1 else f'{label}=~"{"|".join(wanted)}"'
    return table.full(name) + suffix, (matcher,)


def _is_there(table: Table, names: frozenset[str]) -> bool:
    return any(name.startswith(table.prefix) for name in names) if table.prefix else True
