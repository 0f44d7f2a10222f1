"""Everything that a report asks a metrics server about a fleet, in two rounds.

The first round is small: which exporters are there, in which namespaces, and by which labels their series name pods.
`domain.report.joining_found.found` reads its answers. The second round is made for that server: nothing is asked that
it does not have, and no label is looked at that it does not use. `domain.report.joining.join` makes one history of the
answers.

    labels = {kind: await client.labels(metrics, ...) for kind, metrics in LABELLED.items()}
    asked = await client.ask(discovery_questions(days), ...)
    seen = found(asked.frames, labels=labels)
    asked = await client.ask(sharing_questions(seen), ...)
    seen = replace(seen, existing=await client.names(...), single=single(asked.frames))
    asked = await client.ask(fleet_questions(seen), ...)
    history = join(asked.frames, found=seen, now=now, unanswered=...)

`Question.split_by` is also the label that carries the namespace in that question's series: whoever limits a report to
some namespaces matches it, and questions that have none (nodes) or another one (`instance`: GPUs) are not limited.
"""

from math import ceil
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
from optiinfra.engines.promql_fleet_engines import (
    CACHE_NAMES,
    ENGINES,
    engine_questions,
    running_names,
    sharing_questions,
)
from optiinfra.engines.promql_fleet_gpus import gpu_names, gpu_questions
from optiinfra.engines.promql_fleet_parts import MOMENTS, select
from optiinfra.engines.promql_fleet_usage import AGENT_NAMES, CONTAINER_NAMES, NODE_NAMES, usage_questions

__all__ = [
    "EVERYTHING",
    "LABELLED",
    "NAMESPACES_OF",
    "discovery_questions",
    "fleet_questions",
    "label_questions",
    "sharing_questions",
]
EVERYTHING: Final = Found()
"""A server about which nothing is known yet: it is asked for all, by the usual labels."""
NAMESPACES_OF: Final = frozenset(NAMESPACE_LABELS)
"""`Question.split_by` is one of these where a question can be limited to namespaces."""
_TOLD: Final = ("__name__", *NAMESPACE_LABELS, *CLUSTER_LABELS, *REPLICA_LABELS)
_WHOLE: Final = ("__name__", *CLUSTER_LABELS, *REPLICA_LABELS)
_NOW: Final = "1h:15m"
"""For exporters of the cluster, which do not come and go."""
_HOURS: Final = "1h"
"""For kinds of engines and exporters, and the namespaces that they are in."""
_RUNNING: Final = (*dict.fromkeys(name for engine in ENGINES for name in running_names(engine)), *CACHE_NAMES)
LABELLED: Final = {
    "engines": _RUNNING,
    "gpus": tuple(name for name in gpu_names() if name.startswith("DCGM_")),
    "state": ("kube_pod_info", "kube_pod_container_resource_requests"),
    "containers": (CONTAINER_NAMES[1],),
}
"""Kind of series that names pods -> the metrics by whose labels it is told how."""
_NOT_EMPTY: Final = '!=""'
_LABELS: Final = (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS, *NODE_LABELS)


def discovery_questions(days: float = 14.0) -> tuple[Question, ...]:
    """Return the first round, which looks at a moment an hour of the last days, and at more of the last hour.

    What was scaled away before the end is found by that, and what ran for less may not be.
    """
    past = f"{max(1, ceil(days))}d:{_HOURS}"
    return (
        _there("found.engines", _RUNNING, (past, _NOW), by=_TOLD),
        _there("found.gpus", gpu_names(), (past, _NOW), by=_TOLD),
        _there("found.state", STATE_NAMES, (_NOW,), by=_WHOLE),
        _there("found.nodes", (*NODE_NAMES, *AGENT_NAMES), (_NOW,), by=_WHOLE),
        _there("found.containers", CONTAINER_NAMES, (_NOW,), by=_WHOLE),
    )


def label_questions(days: float = 14.0) -> tuple[Question, ...]:
    """Return what to ask besides where the server's index is closed: it reads every series once a label."""
    past = f"{max(1, ceil(days))}d:{MOMENTS}"
    listed = {
        "engines": (past, (*NAMESPACE_LABELS, *POD_LABELS, *SERVICE_LABELS)),
        "gpus": (past, (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS)),
        "state": (_NOW, _LABELS),
        "containers": (_NOW, (*NAMESPACE_LABELS, *POD_LABELS, *CONTAINER_LABELS)),
    }
    return tuple(
        _labels(f"found.labels.{kind}", LABELLED[kind], since, labels) for kind, (since, labels) in listed.items()
    )


def fleet_questions(found: Found = EVERYTHING) -> tuple[Question, ...]:
    """Return the second round."""
    return (*engine_questions(found), *gpu_questions(found), *cluster_questions(found), *usage_questions(found))


def _there(name: str, metrics: tuple[str, ...], pasts: tuple[str, ...], *, by: tuple[str, ...]) -> Question:
    told = " or ".join(f"last_over_time({_any(metrics)}[{past}])" for past in pasts)
    text = f"count by ({','.join(by)}) ({told})"
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
