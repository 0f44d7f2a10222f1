"""What a fleet's history lacks, why, and the one line how to get it.

A report that is silent about what it could not see looks like one that saw everything. Each line here names what is not
known because of something, and what to do; numbers of values, series or objects are counted, never estimated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
)
from optiinfra.domain.report.joining_lacks import Joined, some
from optiinfra.domain.report.joining_missing_series import of_names, of_time, of_values

_OVERLAP: Final = 0.1
"""Share of the time for which two names or versions stand beside each other before it is more than a roll-out."""


def missing(joined: Joined) -> tuple[Missing, ...]:
    """Return every lack, the gravest first."""
    rules: tuple[Callable[[Joined], Iterable[Missing]], ...] = (
        _nothing,
        _questions,
        _sources,
        _gpus,
        _models,
        of_names,
        of_values,
        of_time,
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
            where=some(names),
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
            where=some(dark),
            count=number,
        )
    blind = [gpu.key for gpu in joined.gpus if gpu.holder_source is HolderSource.NOBODY]
    if blind:
        yield Missing(
            Lack.NO_GPU_OWNERS,
            f"which pod holds {len(blind)} of {len(joined.gpus)} GPUs is not known",
            "the exporter names no pods, and requests do not settle it",
            "set DCGM_EXPORTER_KUBERNETES=true, mount /var/lib/kubelet/pod-resources, scrape with honorLabels: true",
            where=some(blind),
            count=len(blind),
        )
    plain = [gpu.key for gpu in joined.gpus if isinstance(gpu.sm_active, Unknown)]
    if plain:
        yield Missing(
            Lack.NO_PROFILING,
            f"of {len(plain)} of {len(joined.gpus)} GPUs only the share of time with any kernel is known",
            "DCGM_FI_PROF_SM_ACTIVE is not exported of them; any decode keeps the other near 1",
            "add DCGM_FI_PROF_SM_ACTIVE and DCGM_FI_PROF_DRAM_ACTIVE to dcgm-exporter's metrics file",
            where=some(plain),
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
            where=some(silent),
            count=len(silent),
        )
    idle = [model.key for model in models if isinstance(model.load.work, Unknown)]
    if idle:
        yield Missing(
            Lack.NO_WORK,
            "how much these models serve is not known, so their replicas are not replayed",
            "their engines count no tokens",
            "update the engine; trtllm-serve needs return_perf_metrics: true",
            where=some(idle),
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
            where=some(slow),
            count=len(slow),
        )
    for lack, what, why, remedy, where in _spans(models):
        if where:
            yield Missing(lack, what, why, remedy, where=some(where), count=len(where))


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


def _together(masks: Sequence[BoolArray]) -> bool:
    """Whether two of some things were so at once for a good part of the time."""
    if len(masks) < 2:
        return False
    count = np.sum(masks, axis=0)
    return bool((count > 1).sum() > _OVERLAP * max(int((count > 0).sum()), 1))
