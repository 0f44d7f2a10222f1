"""Everything that a report asks a metrics server about a fleet, in two rounds.

The first round is small: which exporters are there, in which namespaces, and by which labels their series name pods.
`domain.report.joining_found.found` reads its answers. The second round is made for that server: nothing is asked that
it does not have, and no label is looked at that it does not use. `domain.report.joining.join` makes one history of the
answers.

    asked = await client.ask(discovery_questions(), ...)
    seen = found(asked.frames)
    asked = await client.ask(fleet_questions(seen), ...)
    history = join(asked.frames, found=seen, now=now, unanswered=...)

`Question.split_by` is also the label that carries the namespace in that question's series: whoever limits a report to
some namespaces matches it, and questions that have none (nodes) or another one (`instance`: GPUs) are not limited.
"""

from typing import Final

from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import (
    CLUSTER_LABELS,
    CONTAINER_LABELS,
    NAMESPACE_LABELS,
    NODE_LABELS,
    POD_LABELS,
    REPLICA_LABELS,
    SERVICE_LABELS,
    Found,
)
from optiinfra.engines.promql_fleet_cluster import STATE_NAMES, cluster_questions
from optiinfra.engines.promql_fleet_engines import CACHE_NAMES, ENGINES, engine_questions, running_names
from optiinfra.engines.promql_fleet_gpus import gpu_names, gpu_questions
from optiinfra.engines.promql_fleet_parts import MOMENTS, select
from optiinfra.engines.promql_fleet_usage import AGENT_NAMES, CONTAINER_NAMES, NODE_NAMES, usage_questions

EVERYTHING: Final = Found()
"""A server about which nothing is known yet: it is asked for all, by the usual labels."""
NAMESPACES_OF: Final = frozenset(NAMESPACE_LABELS)
"""`Question.split_by` is one of these where a question can be limited to namespaces."""
_TOLD: Final = ("__name__", *NAMESPACE_LABELS, *CLUSTER_LABELS, *REPLICA_LABELS)
_WHOLE: Final = ("__name__", *CLUSTER_LABELS, *REPLICA_LABELS)
_NOW: Final = "1h:15m"
"""For exporters of the cluster, which do not come and go."""
_NOT_EMPTY: Final = '!=""'
_LABELS: Final = (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS, *NODE_LABELS)


def discovery_questions(days: float = 14.0) -> tuple[Question, ...]:
    """Return the first round, which looks at a moment every twenty minutes of the last days.

    What was scaled away before the end is found by that, and what ran for less may not be.
    """
    past = f"{max(1, round(days))}d:{MOMENTS}"
    engines = (*dict.fromkeys(name for engine in ENGINES for name in running_names(engine)), *CACHE_NAMES)
    gpus = gpu_names()
    exporters = tuple(name for name in gpus if name.startswith("DCGM_"))
    containers = (CONTAINER_NAMES[1],)
    return (
        _there("found.engines", engines, past, by=_TOLD),
        _there("found.gpus", gpus, past, by=_TOLD),
        _there("found.state", STATE_NAMES, _NOW, by=_WHOLE),
        _there("found.nodes", (*NODE_NAMES, *AGENT_NAMES), _NOW, by=_WHOLE),
        _there("found.containers", CONTAINER_NAMES, _NOW, by=_WHOLE),
        _labels("found.labels.engines", engines, past, (*NAMESPACE_LABELS, *POD_LABELS, *SERVICE_LABELS)),
        _labels("found.labels.gpus", exporters, past, (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS)),
        _labels("found.labels.state", ("kube_pod_info", "kube_pod_container_resource_requests"), _NOW, _LABELS),
        _labels("found.labels.containers", containers, _NOW, (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS)),
    )


def fleet_questions(found: Found = EVERYTHING) -> tuple[Question, ...]:
    """Return the second round."""
    return (*engine_questions(found), *gpu_questions(found), *cluster_questions(found), *usage_questions(found))


def _there(name: str, metrics: tuple[str, ...], past: str, *, by: tuple[str, ...]) -> Question:
    text = f"count by ({','.join(by)}) (last_over_time({_any(metrics)}[{past}]))"
    return Question(name, text, by, metrics, split_by="", latest=True)


def _labels(name: str, metrics: tuple[str, ...], past: str, labels: tuple[str, ...]) -> Question:
    """Ask which labels occur, which no function tells: one count a label."""
    parts = []
    for label in dict.fromkeys(labels):
        carried = f"last_over_time({_any(metrics, label + _NOT_EMPTY)}[{past}])"
        parts.append(f'label_replace(count({carried}), "label", "{label}", "", "")')
    return Question(name, " or ".join(parts), ("label",), metrics, split_by="", latest=True)


def _any(metrics: tuple[str, ...], *matchers: str) -> str:
    return select("", f'__name__=~"{"|".join(metrics)}"', *matchers)
