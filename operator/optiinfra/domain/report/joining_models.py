"""Models: every workload whose pods serve one, with all that its engines said, brought together over engines and names.

A workload may serve two names one after the other (renamed), several at a time, or run two versions or engines while it
is rolled out. Its load is told as a whole; who served when stands in spans. A field that no engine publishes stays
Unknown, one that was not measured at a moment stays NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Final

import numpy as np

from optiinfra.domain.aggregation import GENERATION_WEIGHT
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import (
    NOT_ASKED,
    BoolArray,
    CacheLoad,
    Course,
    Load,
    ModelHistory,
    Span,
)
from optiinfra.domain.report.joining_config import engine_config
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.report.joining_frames import Answers, Join, added, averaged, larger, present
from optiinfra.domain.report.joining_owners import Owner, Owners, Stem
from optiinfra.domain.report.joining_scalers import Scalers
from optiinfra.domain.report.joining_versions import Versions

KINDS: Final[Mapping[str, EngineKind]] = {
    "vllm": EngineKind.VLLM,
    "sglang": EngineKind.SGLANG,
    "tgi": EngineKind.TGI,
    "trtllm": EngineKind.TRTLLM,
    "nim": EngineKind.NIM,
    "triton": EngineKind.TRITON,
}
"""What questions about an engine begin with."""
_HIGHEST: Final = frozenset({"running_highest", "kv_usage_highest"})
_MEANS: Final = frozenset(
    {
        "kv_usage",
        "kv_reserved",
        "prefix_hit_ratio",
        "external_hit_ratio",
        "ttft_mean",
        "ttft_late",
        "itl_mean",
        "itl_late",
        "queue_mean",
        "latency_mean",
    }
)
_NEWEST: Final = frozenset({"ttft_p95", "itl_p95"})
"""Of the last day."""
_DERIVED: Final = frozenset({"work", "prompt_length_mean", "generation_length_mean"})
_LOAD: Final = tuple(one.name for one in fields(Load) if one.name not in _DERIVED | _NEWEST)
_CACHE: Final = tuple(one.name for one in fields(CacheLoad))
_NOT_PUBLISHED: Final = "its engine does not publish it, or not on this server"


@dataclass(slots=True)
class _Gathered:
    """One field of all models."""

    courses: dict[tuple[str, str], list[FloatArray]] = field(default_factory=dict)
    source: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class Models:
    """Joins models; made once a history."""

    answers: Answers
    owners: Owners
    scalers: Scalers
    found: Found
    versions: Versions
    held: Mapping[tuple[str, str], FloatArray]
    """GPUs by workload over time, by requests or by exporters; empty where nobody knows."""
    held_source: str
    gpus_of: Mapping[tuple[str, str], Sequence[str]]
    containers_of: Mapping[tuple[str, str], Sequence[str]]
    per_pod: Mapping[tuple[str, str], float]
    """GPUs that one pod requests, where that is known."""

    def all(self) -> tuple[ModelHistory, ...]:
        """Join every workload that serves."""
        fields_of = {name: self._gathered(KINDS, name) for name in (*_LOAD, *_NEWEST, "prefix_hit_gauge")}
        cache_of = {name: self._gathered(("lmcache",), name) for name in _CACHE}
        serving = self._gathered(KINDS, "serving")
        found = {self._owner(labels) for labels in self._labels("serving")}
        return tuple(self._model(owner, fields_of, cache_of, serving) for owner in sorted(found))

    def _model(
        self,
        owner: Owner,
        fields_of: Mapping[str, _Gathered],
        cache_of: Mapping[str, _Gathered],
        serving: _Gathered,
    ) -> ModelHistory:
        key = owner.key
        sources: dict[str, str] = {}
        count = self._course(key, "serving", serving, sources, added)
        there = None if isinstance(count, Unknown) else np.isfinite(count)
        load = self._load(key, fields_of, sources, there)
        cache: CacheLoad | Unknown = NOT_ASKED
        if any(key in one.courses for one in cache_of.values()):
            cache = CacheLoad(
                **{name: self._course(key, name, one, sources, added, there) for name, one in cache_of.items()}
            )
        spec, available = (self._replicas(owner, field, sources) for field in ("spec_replicas", "available"))
        known = [one for one in (available, count, spec) if not isinstance(one, Unknown)]
        held: Course = self.held.get(key, Unknown(UnknownReason.NOT_MEASURED, "nobody tells which GPUs it holds"))
        if key in self.held:
            sources["gpus_held"] = self.held_source
        workers = self.owners.workers.get(key, 0)
        return ModelHistory(
            namespace=owner.namespace,
            workload=owner.name,
            kind=owner.kind,
            owner_source=owner.source,
            names=self._names(key),
            engines=self.versions.engines(key, self._engines(key)),
            serving=count,
            spec_replicas=spec,
            available=available,
            load=load,
            cache=cache,
            config=engine_config(self.answers, self.owners, key, engines=KINDS),
            scaler=self.scalers.of(key),
            gpus_per_replica=self._per_replica(key, held, known[0] if known else None, workers),
            gpus_held=held,
            gpus=tuple(sorted(self.gpus_of.get(key, ()))),
            nodes_per_replica=float(workers + 1),
            containers=tuple(sorted(self.containers_of.get(key, ()))),
            sources=sources,
            labels_used=self.found.engines.unusual,
        )

    def _load(
        self,
        key: tuple[str, str],
        fields_of: Mapping[str, _Gathered],
        sources: dict[str, str],
        there: BoolArray | None,
    ) -> Load:
        found: dict[str, Course] = {}
        for name in _LOAD:
            join = larger if name in _HIGHEST else None if name in _MEANS else added
            found[name] = self._course(key, name, fields_of[name], sources, join, there)
        if isinstance(found["prefix_hit_ratio"], Unknown):
            found["prefix_hit_ratio"] = self._course(
                key, "prefix_hit_ratio", fields_of["prefix_hit_gauge"], sources, None, there
            )
        prompt, generated = found["prompt_tokens"], found["generation_tokens"]
        work: Course = Unknown(
            UnknownReason.NOT_MEASURED, "work needs prompt and generated tokens, and one is not counted"
        )
        if not isinstance(prompt, Unknown) and not isinstance(generated, Unknown):
            work = prompt + GENERATION_WEIGHT * generated
            sources["work"] = sources["generation_tokens"]
        return Load(
            work=work,
            ttft_p95=self._percentile(key, fields_of["ttft_p95"], "ttft_p95", sources),
            itl_p95=self._percentile(key, fields_of["itl_p95"], "itl_p95", sources),
            prompt_length_mean=_per_request(prompt, found["requests"]),
            generation_length_mean=_per_request(generated, found["requests"]),
            prompt_tokens=found["prompt_tokens"],
            generation_tokens=found["generation_tokens"],
            requests=found["requests"],
            running=found["running"],
            running_highest=found["running_highest"],
            waiting=found["waiting"],
            waiting_highest=found["waiting_highest"],
            kv_usage=found["kv_usage"],
            kv_usage_highest=found["kv_usage_highest"],
            kv_reserved=found["kv_reserved"],
            preemptions=found["preemptions"],
            prefix_hit_ratio=found["prefix_hit_ratio"],
            external_hit_ratio=found["external_hit_ratio"],
            ttft_mean=found["ttft_mean"],
            ttft_late=found["ttft_late"],
            itl_mean=found["itl_mean"],
            itl_late=found["itl_late"],
            queue_mean=found["queue_mean"],
            latency_mean=found["latency_mean"],
            rejected=found["rejected"],
            failed=found["failed"],
            aborted=found["aborted"],
        )

    def _course(
        self,
        key: tuple[str, str],
        name: str,
        gathered: _Gathered,
        sources: dict[str, str],
        join: Join | None,
        there: BoolArray | None = None,
    ) -> Course:
        """Return one field of one model, of when it was `there`; without a join its parts are averaged."""
        listed = gathered.courses.get(key)
        if not listed:
            return Unknown(UnknownReason.NOT_MEASURED, _NOT_PUBLISHED)
        sources[name] = gathered.source[key]
        course = averaged(listed) if join is None else reduce(join, listed)
        return self.answers.where(gathered.source[key], course, there)

    def _percentile(self, key: tuple[str, str], gathered: _Gathered, name: str, sources: dict[str, str]) -> Value:
        known = [float(one[np.isfinite(one)][-1]) for one in gathered.courses.get(key, ()) if np.isfinite(one).any()]
        if not known:
            return Unknown(UnknownReason.NOT_MEASURED, "no histogram of it in the last day of the window")
        sources[name] = gathered.source[key]
        return max(known)

    def _gathered(self, prefixes: Iterable[str], name: str) -> _Gathered:
        gathered = _Gathered()
        for prefix in prefixes:
            question = f"{prefix}.{name}"
            for labels, values, _ in self.answers.each(question):
                key = self._owner(labels).key
                gathered.courses.setdefault(key, []).append(self.answers.on_grid(values))
                gathered.source[key] = question
        return gathered

    def _owner(self, labels: Mapping[str, str]) -> Owner:
        return self.owners.of(labels["namespace"], labels["workload"])

    def _labels(self, name: str) -> Iterable[Mapping[str, str]]:
        for prefix in KINDS:
            for labels, _, _ in self.answers.each(f"{prefix}.{name}"):
                yield labels

    def _names(self, key: tuple[str, str]) -> tuple[Span, ...]:
        seen: dict[str, BoolArray] = {}
        for prefix in KINDS:
            for labels, values, _ in self.answers.each(f"{prefix}.models"):
                name = labels.get("model_name") or labels.get("model") or ""
                if name and self._owner(labels).key == key:
                    seen[name] = seen.get(name, self.answers.never()) | present(values)
        return spans(self.answers.times, seen)

    def _engines(self, key: tuple[str, str]) -> dict[EngineKind, BoolArray]:
        seen: dict[EngineKind, BoolArray] = {}
        for prefix, kind in KINDS.items():
            for labels, values, _ in self.answers.each(f"{prefix}.serving"):
                if self._owner(labels).key == key:
                    seen[kind] = seen.get(kind, self.answers.never()) | present(values)
        return seen

    def _replicas(self, owner: Owner, name: str, sources: dict[str, str]) -> Course:
        kinds: tuple[str, ...] = ("StatefulSet", "Deployment")
        if owner.kind == "Deployment":
            kinds = ("Deployment",)
        elif owner.kind:
            kinds = ("StatefulSet",)
        for kind in kinds:
            question = f"state.{name}.{kind}"
            for labels, values, _ in self.answers.each(question):
                if (labels["namespace"], labels["workload"]) == owner.key:
                    sources[name] = question
                    return values
        return Unknown(UnknownReason.NOT_MEASURED, "kube-state-metrics does not tell its replicas")

    def _per_replica(self, key: tuple[str, str], held: Course, replicas: FloatArray | None, workers: int) -> Value:
        if workers == 0 and key in self.per_pod:
            return self.per_pod[key]
        if isinstance(held, Unknown) or replicas is None:
            return Unknown(UnknownReason.NOT_MEASURED, "nobody tells which GPUs its pods request or hold")
        both = present(held) & present(replicas)
        if not both.any():
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, "it never ran while GPUs were counted")
        return float(np.median(held[both] / replicas[both]))


def serving_stems(answers: Answers) -> set[Stem]:
    """Return the workloads, by pods' names, whose engines answer at any time."""
    return {
        (labels["namespace"], labels["workload"])
        for prefix in KINDS
        for labels, _, _ in answers.each(f"{prefix}.serving")
    }


def spans(times: FloatArray, seen: Mapping[str, BoolArray]) -> tuple[Span, ...]:
    """Return when each of some texts held, the one seen last first; of several at once the most frequent first."""
    found = []
    for text, mask in seen.items():
        at = np.flatnonzero(mask)
        if at.size:
            found.append(Span(text, float(times[at[0]]), float(times[at[-1]]), mask))
    return tuple(sorted(found, key=lambda one: (-one.last, -int(one.present.sum()), one.text)))


def _per_request(tokens: Course | Value, requests: Course | Value) -> Course:
    if not isinstance(tokens, np.ndarray) or not isinstance(requests, np.ndarray):
        return Unknown(UnknownReason.NOT_MEASURED, "lengths need tokens and finished requests, and one is not counted")
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = tokens / requests
    return np.where(np.isfinite(mean), mean, np.nan)
