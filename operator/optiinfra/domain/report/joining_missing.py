"""What a fleet's history lacks, why, and the one line how to get it.

A report that is silent about what it could not see looks like one that saw everything. Each line here names what is not
known because of something, and what to do; numbers of values, series or objects are counted, never estimated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.history import (
    BoolArray,
    GpuHistory,
    HolderSource,
    Lack,
    Missing,
    ModelHistory,
    NodeHistory,
    OwnerSource,
)
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.report.joining_frames import Answers

MOST: Final = 20
_DAY_S: Final = 86_400.0
_OVERLAP: Final = 0.1
"""Share of the time for which two names or versions stand beside each other before it is more than a roll-out."""
_QUIET_S: Final = 900.0
"""How old the newest sample may be."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What was joined, to be looked through."""

    answers: Answers
    found: Found
    models: Sequence[ModelHistory]
    gpus: Sequence[GpuHistory]
    nodes: Sequence[NodeHistory]
    unanswered: Sequence[tuple[str, str]]
    holders: Sequence[str]
    """namespace/workload of everybody who ever held or requested a GPU."""
    resets: int
    """Counters that began anew."""
    restarted: tuple[str, ...]


def missing(joined: Joined) -> tuple[Missing, ...]:
    """Return every lack, the gravest first."""
    rules: tuple[Callable[[Joined], Iterable[Missing]], ...] = (
        _nothing,
        _questions,
        _sources,
        _gpus,
        _models,
        _names,
        _values,
        _time,
    )
    return tuple(line for rule in rules for line in rule(joined))


def _nothing(joined: Joined) -> Iterator[Missing]:
    if not joined.models and not joined.gpus:
        yield Missing(
            Lack.NOTHING,
            "there is nothing to report on",
            "neither a model server's nor a GPU exporter's series are on this server in this range",
            "check address and tenant, widen --since, drop --namespace and --label, or scrape the engines' /metrics",
        )
    elif not joined.models:
        yield Missing(
            Lack.NO_ENGINES,
            "load, queues, KV caches and replicas' work are not known",
            "no series of vLLM, SGLang, TGI, TensorRT-LLM, NIM or Triton are on this server",
            "scrape the model servers' /metrics with a PodMonitor, or with prometheus.io/scrape annotations",
        )
    elif not joined.gpus:
        yield Missing(
            Lack.NO_GPU_METRICS,
            "how much of each GPU works, its memory and its power are not known",
            "neither dcgm-exporter's nor optiinfra-agent's series are on this server",
            "install dcgm-exporter (it comes with the GPU operator) with a ServiceMonitor, or the chart's node agent",
        )


def _questions(joined: Joined) -> Iterator[Missing]:
    if joined.unanswered:
        names = [name for name, _ in joined.unanswered]
        yield Missing(
            Lack.UNANSWERED,
            "what these questions were about is not known",
            f"{len(names)} questions were not answered; the first: {joined.unanswered[0][1]}",
            "run it again (answers are kept), ask for less with --since or --namespace, or raise the server's limits",
            where=_some(names),
            count=len(names),
        )


def _sources(joined: Joined) -> Iterator[Missing]:
    answers = joined.answers
    if not (joined.models or joined.gpus):
        return
    state = answers.has("state.owners", "state.capacity", "state.gpu_requests", "state.pods")
    if not state:
        yield Missing(
            Lack.NO_STATE_METRICS,
            "owners, requests, replicas told, scalers and nodes' capacity are not known",
            "no series of kube-state-metrics are on this server",
            "install kube-state-metrics, which kube-prometheus-stack brings, and let this server scrape it",
        )
    elif joined.nodes and not any(node.labels for node in joined.nodes):
        yield Missing(
            Lack.NO_NODE_LABELS,
            "instance types, zones and spot nodes are not known, so prices come from the GPUs' models",
            "kube-state-metrics publishes no labels of nodes",
            "start it with --metric-labels-allowlist=nodes=[node.kubernetes.io/instance-type,"
            "topology.kubernetes.io/zone,karpenter.sh/capacity-type]",
        )
    if not answers.has("containers.cpu", "containers.memory"):
        yield Missing(
            Lack.NO_CONTAINER_METRICS,
            "CPU and memory of containers are not known, so nothing is said of their requests",
            "no series of cAdvisor are on this server",
            "let this server scrape the kubelets' /metrics/cadvisor",
        )
    if not answers.has("root.cpu", "root.memory", "exporter.memory", "agent_node.cpu"):
        yield Missing(
            Lack.NO_NODE_METRICS,
            "CPU and memory used on nodes are not known",
            "neither cAdvisor's root cgroup nor node-exporter's series are on this server",
            'keep id="/" of the kubelets\' /metrics/cadvisor, or install node-exporter',
        )


def _gpus(joined: Joined) -> Iterator[Missing]:
    if not joined.gpus:
        return
    dark = [node.name for node in joined.nodes if _unseen(node, joined.gpus) > 0.0]
    if dark:
        number = round(sum(_unseen(node, joined.gpus) for node in joined.nodes))
        yield Missing(
            Lack.NO_GPU_METRICS,
            f"of {number} GPUs nothing is measured",
            f"{len(dark)} nodes have more GPUs than an exporter shows",
            "run dcgm-exporter or the chart's node agent there too: look at its nodeSelector and tolerations",
            where=_some(dark),
            count=number,
        )
    blind = [gpu.key for gpu in joined.gpus if gpu.holder_source is HolderSource.NOBODY]
    if blind:
        yield Missing(
            Lack.NO_GPU_OWNERS,
            f"which pod holds {len(blind)} of {len(joined.gpus)} GPUs is not known",
            "the exporter names no pods, and requests do not settle it",
            "set DCGM_EXPORTER_KUBERNETES=true, mount /var/lib/kubelet/pod-resources, scrape with honorLabels: true",
            where=_some(blind),
            count=len(blind),
        )
    plain = [gpu.key for gpu in joined.gpus if isinstance(gpu.sm_active, Unknown)]
    if plain:
        yield Missing(
            Lack.NO_PROFILING,
            f"of {len(plain)} of {len(joined.gpus)} GPUs only the share of time with any kernel is known",
            "DCGM_FI_PROF_SM_ACTIVE is not exported of them; any decode keeps the other near 1",
            "add DCGM_FI_PROF_SM_ACTIVE and DCGM_FI_PROF_DRAM_ACTIVE to dcgm-exporter's metrics file",
            where=_some(plain),
            count=len(plain),
        )


def _unseen(node: NodeHistory, gpus: Sequence[GpuHistory]) -> float:
    """Return how many GPUs a node has more than are seen of it; 0 for one that is gone."""
    if isinstance(node.gpus, Unknown) or not node.present[-1:].any():
        return 0.0
    return max(0.0, node.gpus - len({gpu.uuid for gpu in gpus if gpu.node == node.name}))


def _models(joined: Joined) -> Iterator[Missing]:
    models = joined.models
    served = {model.key for model in models}
    silent = [key for key in joined.holders if key not in served]
    if silent and models:
        yield Missing(
            Lack.NO_ENGINE_OF_HOLDERS,
            "what these workloads do with their GPUs is known from the GPUs alone",
            f"{len(silent)} workloads hold GPUs, and no engine's series are of their pods",
            "if they serve models, scrape their /metrics with a PodMonitor",
            where=_some(silent),
            count=len(silent),
        )
    idle = [model.key for model in models if isinstance(model.load.work, Unknown)]
    if idle:
        yield Missing(
            Lack.NO_WORK,
            "how much these models serve is not known, so their replicas are not replayed",
            "their engines count no tokens",
            "update the engine; trtllm-serve needs return_perf_metrics: true",
            where=_some(idle),
            count=len(idle),
        )
    slow = [
        model.key
        for model in models
        if isinstance(model.load.ttft_mean, Unknown) and isinstance(model.load.itl_mean, Unknown)
    ]
    if slow:
        yield Missing(
            Lack.NO_LATENCIES,
            "whether these models meet their objectives is judged by queues alone",
            "their engines' latency histograms are not on this server",
            "keep *_time_to_first_token_seconds and *_inter_token_latency_seconds when relabelling",
            where=_some(slow),
            count=len(slow),
        )
    for lack, what, why, remedy, where in _spans(models):
        if where:
            yield Missing(lack, what, why, remedy, where=_some(where), count=len(where))


def _spans(models: Sequence[ModelHistory]) -> Iterator[tuple[Lack, str, str, str, list[str]]]:
    several = [model.key for model in models if _together([span.present for span in model.names])]
    renamed = [model.key for model in models if len(model.names) > 1 and model.key not in several]
    versions = [
        model.key
        for model in models
        if any(
            _together([span.present for kind, span in model.engines if kind is one])
            for one in {kind for kind, _ in model.engines}
        )
    ]
    engines = [model.key for model in models if len({kind for kind, _ in model.engines}) > 1]
    yield (
        Lack.SEVERAL_MODELS,
        "what each of their models serves is told together",
        "these workloads serve several models at a time",
        "give each model a workload of its own to see it alone",
        several,
    )
    yield (
        Lack.RENAMED_MODEL,
        "their history is told as that of one model",
        "these workloads served another model name before",
        "use --since to begin after the change if it was another model",
        renamed,
    )
    yield (
        Lack.MIXED_VERSIONS,
        "signals that only one of the versions publishes are known of a part of their pods",
        "these workloads ran several engine versions beside each other for a tenth of the time or more",
        "finish the roll-out, or split the versions into workloads",
        versions,
    )
    yield (
        Lack.MIXED_ENGINES,
        "latencies and ratios are means over engines that measure them differently",
        "these workloads ran more than one engine",
        "use --since to begin after the change",
        engines,
    )


def _names(joined: Joined) -> Iterator[Missing]:
    found = joined.found
    guessed = [model.key for model in joined.models if model.owner_source is OwnerSource.POD_NAMES]
    if found.engines.by_service and joined.models:
        yield Missing(
            Lack.NO_POD_NAMES,
            "replicas are scrape targets, and GPUs cannot be given to models",
            f"the engines' series name no pod; the label {found.engines.pod[-1]} stands for the workload",
            "scrape with a PodMonitor, or keep __meta_kubernetes_pod_name as the label pod",
            where=_some(guessed),
            count=len(guessed),
        )
    elif guessed:
        yield Missing(
            Lack.OWNERS_BY_NAME,
            "kind and name of these workloads are taken from their pods' names",
            "kube_pod_owner says nothing of their pods",
            "let this server scrape kube-state-metrics with honorLabels: true",
            where=_some(guessed),
            count=len(guessed),
        )
    odd = sorted({*found.engines.unusual, *found.gpus.unusual, *found.state.unusual, *found.containers.unusual})
    if odd and found.looked:
        yield Missing(
            Lack.RELABELLED,
            "nothing; other labels were read",
            f"series name their pods by {', '.join(odd)}",
            "scrape with honorLabels: true and the labels namespace, pod and container for shorter queries",
            where=_some(odd),
            count=len(odd),
        )
    if found.copies:
        yield Missing(
            Lack.DUPLICATES,
            "nothing; copies of a series count once",
            f"{len(found.copies)} copies of the metrics server hold the same series",
            "ask an address that removes duplicates (Thanos Query, Mimir) to halve what is read",
            where=found.copies,
            count=len(found.copies),
        )
    if found.clusters:
        yield Missing(
            Lack.SEVERAL_CLUSTERS,
            "workloads and nodes of the same name in two clusters are told as one",
            f"this server holds series of {len(found.clusters)} clusters",
            'ask for one of them: --label cluster="NAME"',
            where=found.clusters,
            count=len(found.clusters),
        )


def _values(joined: Joined) -> Iterator[Missing]:
    absurd = joined.answers.absurd
    if absurd:
        total = sum(absurd.values())
        worst = sorted(absurd, key=lambda name: (-absurd[name], name))
        yield Missing(
            Lack.ABSURD_VALUES,
            f"{total} values are left out as unknown",
            f"they are negative, infinite or larger than can be; most of them answer {worst[0]}",
            "look at that query: DCGM writes 9223372036854775794 for what a GPU does not support",
            where=_some(worst),
            count=total,
        )
    if joined.resets:
        yield Missing(
            Lack.COUNTER_RESETS,
            "what was served between a pod's last scrape and its restart is not counted",
            f"counters began anew {joined.resets} times while pods kept their names: engines were restarted",
            "look for crashes and out-of-memory kills of these workloads",
            where=_some(joined.restarted),
            count=joined.resets,
        )


def _time(joined: Joined) -> Iterator[Missing]:
    answers = joined.answers
    if answers.future:
        yield Missing(
            Lack.FUTURE,
            f"{answers.future} values are left out",
            "their time lies in the future: the clock of this machine or of the metrics server is wrong",
            "set both clocks by NTP",
            count=answers.future,
        )
    known = answers.known
    seen = np.flatnonzero(known)
    if not seen.size:
        return
    begin, end = float(answers.times[seen[0]]), float(answers.times[seen[-1]])
    late = min(answers.now, float(answers.times[-1])) - end
    if late > max(_QUIET_S, 2.0 * answers.step_s):
        yield Missing(
            Lack.HOLES,
            f"the last {late / 3600.0:.1f} h are not known",
            "no engine's and no GPU's sample is newer: scraping stopped, or the server's clock is behind",
            "look at the server's targets, and compare its clock with this machine's",
        )
    short = begin - float(answers.times[0])
    if short > 0.1 * (float(answers.times[-1]) - float(answers.times[0])):
        yield Missing(
            Lack.SHORT,
            f"the first {short / _DAY_S:.1f} of {len(answers.times) * answers.step_s / _DAY_S:.1f} days are not known",
            "the series begin later: the server keeps no longer, or scraping began then",
            "use a shorter --since, or a longer retention",
        )
    holes = int((~known[seen[0] : seen[-1] + 1]).sum())
    if holes:
        yield Missing(
            Lack.HOLES,
            f"{holes * answers.step_s / 3600.0:.1f} h in between are not known, and nothing is filled in",
            "at those times this server holds no sample of any engine or GPU",
            "look for restarts of the metrics server at those times",
            count=holes,
        )
    dark = [model.key for model in joined.models if _unscraped(model) > _OVERLAP]
    if dark:
        yield Missing(
            Lack.HOLES,
            "the load of these models is known in part only",
            "a tenth or more of their available replicas' time has no sample of an engine",
            "look at the targets of their PodMonitor",
            where=_some(dark),
            count=len(dark),
        )


def _unscraped(model: ModelHistory) -> float:
    """Share of the available replicas' time in which no engine answered."""
    if isinstance(model.available, Unknown) or isinstance(model.serving, Unknown):
        return 0.0
    there = np.nan_to_num(model.available)
    if not there.any():
        return 0.0
    return float(np.maximum(there - np.nan_to_num(model.serving), 0.0).sum() / there.sum())


def _together(masks: Sequence[BoolArray]) -> bool:
    """Whether two of some things were so at once for a good part of the time."""
    if len(masks) < 2:
        return False
    count = np.sum(masks, axis=0)
    return bool((count > 1).sum() > _OVERLAP * max(int((count > 0).sum()), 1))


def _some(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[:MOST])
