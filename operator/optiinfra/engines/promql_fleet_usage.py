"""What to ask about the CPU and memory of containers and nodes: cAdvisor, kube-state-metrics, node-exporter, the agent.

A request is each pod's, so of a workload's pods the one that uses most counts at each moment. Nodes are measured by the
root cgroup where cAdvisor publishes it: node-exporter has a series for each core and mode, 1,000 of a large GPU node.
"""

from collections.abc import Iterator
from typing import Final

from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import Found, Spelling
from optiinfra.engines.promql_fleet_parts import (
    FACTS_S,
    HOURLY_S,
    WORKLOAD,
    largest,
    over_window,
    own_labels,
    question,
    select,
    together,
    with_label,
    with_workload,
)

CONTAINER_NAMES: Final = ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes")
NODE_NAMES: Final = ("node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes", "node_uname_info")
AGENT_NAMES: Final = ("optiinfra_node_cpu_busy_seconds_total",)
INSTANCE_LABELS: Final = ("node", "kubernetes_node", "nodename", "instance")
"""Who a value of a node is about, the surest first."""
_BY: Final = (*WORKLOAD, "container")
_COARSE: Final = {"pods": FACTS_S, "cpu": 0.0, "memory": HOURLY_S, "memory_kills": HOURLY_S}
"""CPU is sized by what was used within minutes, memory by its peaks."""
_ROOT: Final = 'id="/"'


def usage_questions(found: Found) -> Iterator[Question]:
    """Yield what to ask about CPU and memory."""
    if found.has(*CONTAINER_NAMES):
        yield from _containers(found)
    yield from _restarts(found)
    yield from _nodes(found)


def _containers(found: Found) -> Iterator[Question]:
    spelling = found.containers
    space, name = spelling.namespace[-1], spelling.container[-1]
    only = [f'{name}!~"|POD"']
    if found.namespaces:
        only.append(f'{space}=~"{"|".join(found.namespaces)}"')
    own = (*own_labels(spelling), *spelling.container)
    listed = (
        ("pods", "count", select(CONTAINER_NAMES[1], *only), (CONTAINER_NAMES[1],)),
        ("cpu", "max", over_window("rate", CONTAINER_NAMES[0], *only), (CONTAINER_NAMES[0],)),
        ("memory", "max", over_window("max_over_time", CONTAINER_NAMES[1], *only), (CONTAINER_NAMES[1],)),
        (
            "memory_kills",
            "sum",
            over_window("increase", "container_oom_events_total", *only),
            ("container_oom_events_total",),
        ),
    )
    for field, operator, text, metrics in listed:
        # The largest of all copies is the largest of all.
        named = _named(text if operator == "max" else largest(text, own), spelling)
        yield question(
            f"containers.{field}",
            together(operator, named, _BY),
            metrics=metrics,
            by=_BY,
            split_by=space,
            coarse_s=_COARSE[field],
            events=field == "memory_kills",
        )


def _restarts(found: Found) -> Iterator[Question]:
    spelling = found.state
    own = (*own_labels(spelling), *spelling.container)
    name = "kube_pod_container_status_restarts_total"
    if found.has("kube_pod_info", "kube_pod_owner"):
        named = _named(largest(over_window("increase", name, *_spaces(found)), own), spelling)
        yield question(
            "containers.restarts",
            together("sum", named, _BY),
            metrics=[name],
            by=_BY,
            split_by=spelling.namespace[-1],
            coarse_s=HOURLY_S,
            events=True,
        )


def _nodes(found: Found) -> Iterator[Question]:
    labels = INSTANCE_LABELS
    for name, text, metrics in (
        ("root.cpu", over_window("rate", CONTAINER_NAMES[0], _ROOT), CONTAINER_NAMES[:1]),
        ("root.memory", over_window("avg_over_time", CONTAINER_NAMES[1], _ROOT), CONTAINER_NAMES[1:]),
        ("agent_node.cpu", over_window("rate", AGENT_NAMES[0]), AGENT_NAMES),
    ):
        if found.has(*metrics):
            yield question(name, largest(text, labels), metrics=metrics, by=labels, split_by="", coarse_s=HOURLY_S)
    if found.has(*NODE_NAMES):
        total, available = (over_window("avg_over_time", one) for one in NODE_NAMES[:2])
        used = f"{largest(total, labels)} - {largest(available, labels)}"
        yield question("exporter.memory", used, metrics=NODE_NAMES[:2], by=labels, split_by="", coarse_s=HOURLY_S)
        by = ("instance", "nodename")
        yield question(
            "exporter.names",
            largest(select(NODE_NAMES[2]), by),
            metrics=NODE_NAMES[2:],
            by=by,
            split_by="",
            latest=True,
        )


def _named(expression: str, spelling: Spelling) -> str:
    return with_label(with_workload(expression, spelling), "container", spelling.container)


def _spaces(found: Found) -> tuple[str, ...]:
    return (f'{found.state.namespace[-1]}=~"{"|".join(found.namespaces)}"',) if found.namespaces else ()
