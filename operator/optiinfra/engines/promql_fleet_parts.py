"""Pieces of queries about a whole fleet: selectors, one value a pod, pods brought together by workload.

A fleet has thousands of pods in two weeks and some dozen workloads, so the server adds up: what comes back is one
series a workload. It knows no owners, but pods of Deployments, StatefulSets, DaemonSets and Jobs are named after
theirs, so the workload is cut out of the pod's name by one `label_replace`; who really owns the pods is asked apart and
joined later. Before anything is summed, copies of one series (two replicas of the server, ranks of one engine) become
one: the largest.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import Spelling

_SUFFIX: Final = "[b-df-hj-np-tv-xz24-9]"
"""Letters of a ReplicaSet's and of a pod's suffix."""
STEM: Final = f"(.+?)(-{_SUFFIX}{{1,10}}-{_SUFFIX}{{5}}|-[0-9]+|-{_SUFFIX}{{5}})?"
"""A pod's name: what is named after its workload, and what is added. RE2, the same in Python; anchored."""
REVISION: Final = f"(.+)-{_SUFFIX}{{1,10}}"
"""A ReplicaSet's name: its Deployment's, and a hash."""
MOMENTS: Final = "20m"
"""How far apart a subquery looks at facts, which do not move: a moment costs one sample a series, a range all."""
HOURLY_S: Final = 3600.0
"""Of what is judged by the hour: every sample counts all the same, but evaluating once an hour is a seventh of the
work of a server."""
FACTS_S: Final = 1200.0
"""Of what seldom changes: names, holders, what nodes have."""
WORKLOAD: Final = ("namespace", "workload")


def select(name: str, *matchers: str) -> str:
    """Return a selector of one name, with the place for whoever asks."""
    return f"{name}{{{','.join((*matchers, '$matchers'))}}}"


def over_window(function: str, name: str, *matchers: str) -> str:
    """Return a function over the window: avg_over_time, max_over_time, rate, increase, resets."""
    return f"{function}({select(name, *matchers)}[$window])"


def last_told(name: str, *matchers: str) -> str:
    """Return what series said last in two weeks, of what did not go again within minutes."""
    return f"last_over_time({select(name, *matchers)}[14d:{MOMENTS}])"


def largest(expression: str, by: Iterable[str]) -> str:
    """Return copies of one series as one."""
    return f"max by ({','.join(by)}) ({expression})"


def replaced(expression: str, *, target: str, source: str, pattern: str = "(.+)") -> str:
    """Return series with a label taken from another one, where that one matches."""
    return f'label_replace({expression}, "{target}", "$1", "{source}", "{pattern}")'


def own_labels(spelling: Spelling) -> tuple[str, ...]:
    """Return the labels that tell pods apart."""
    return (*spelling.namespace, *spelling.pod)


def with_workload(expression: str, spelling: Spelling) -> str:
    """Return series with the labels `namespace` and `workload`, from the labels of a spelling."""
    for label in spelling.namespace:
        if label != "namespace":
            expression = replaced(expression, target="namespace", source=label)
    pattern = "(.+)" if spelling.by_service else STEM
    for label in spelling.pod:
        expression = replaced(expression, target="workload", source=label, pattern=pattern)
    return expression


def with_label(expression: str, target: str, sources: Sequence[str]) -> str:
    """Return series with a label taken from the last of some that is there."""
    for label in sources:
        if label != target:
            expression = replaced(expression, target=target, source=label)
    return expression


def either(*expressions: str) -> str:
    """Return the first alternative that is there, for each pod apart."""
    return expressions[0] if len(expressions) == 1 else f"({' or '.join(expressions)})"


def together(operator: str, expression: str, by: Sequence[str] = WORKLOAD) -> str:
    """Return one series a workload: operator is sum, max, min, avg or count."""
    return f"{operator} by ({','.join(by)}) ({expression})"


def question(
    name: str,
    promql: str,
    *,
    metrics: Iterable[str],
    by: tuple[str, ...] = WORKLOAD,
    split_by: str = "namespace",
    latest: bool = False,
    coarse_s: float = 0.0,
    events: bool = False,
) -> Question:
    """Return a question whose metrics are named once each."""
    named = tuple(dict.fromkeys(metrics))
    return Question(name, promql, by, named, split_by=split_by, latest=latest, coarse_s=coarse_s, events=events)
