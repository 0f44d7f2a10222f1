"""What the cluster could give back, as its ClusterResourceOptimization says at the end: idle GPUs, nodes, the ledger.

Read from the status as a person would read it; nothing is computed here but sums of what is listed. What the status
does not say is shown as not said.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IdleHolder:
    """Idle GPUs of one owner's pods."""

    holder: str
    """namespace/name of the pods without what differs between them; empty: nobody in Kubernetes holds them."""
    state: str
    gpus: int
    per_hour: float | None
    """None where the status gives no price for one of them."""


@dataclass(frozen=True, slots=True)
class FreeableNode:
    """A node that could go."""

    name: str
    gpus: float
    pods: int
    warm_servers: int
    moves: tuple[str, ...]
    """`pod -> node` of each, in order."""


def idle_holders(status: _Json) -> list[IdleHolder]:
    """Sum up the listed idle GPUs by who holds them, most first."""
    groups: dict[tuple[str, str], list[_Json]] = defaultdict(list)
    for gpu in status.get("idleGpus", {}).get("gpus", ()):
        holder = ", ".join(sorted({owner_of(pod) for pod in gpu.get("holders", ())}))
        groups[holder, gpu["state"]].append(gpu)
    found = []
    for (holder, state), gpus in groups.items():
        prices = [gpu["perHour"].get("value") for gpu in gpus]
        total = None if None in prices else sum(prices)
        found.append(IdleHolder(holder, state, len(gpus), total))
    return sorted(found, key=lambda one: (-one.gpus, one.holder))


def owner_of(pod: str) -> str:
    """Return namespace/name of a Deployment's pod without the two parts that its ReplicaSet adds."""
    parts = pod.rsplit("-", 2)
    return parts[0] if len(parts) == 3 else pod


def freeable_nodes(status: _Json) -> list[FreeableNode]:
    """Return the nodes of the plan with their moves."""
    plan = status.get("consolidation", {})
    moves: dict[str, list[str]] = defaultdict(list)
    for step in plan.get("steps", ()):
        moves[step["from"]].append(f"{step['pod']} -> {step['to']}")
    return [
        FreeableNode(node["name"], node["gpus"], node["pods"], node.get("warmServers", 0), tuple(moves[node["name"]]))
        for node in plan.get("nodes", ())
    ]


def print_waste(console: Console, status: _Json) -> None:
    """Print both, and what the ledger says."""
    console.rule("what the cluster could give back: cro cluster")
    table = Table(title="idle GPUs")
    for name in ("held by", "state", "GPUs", "cost an hour"):
        table.add_column(name, justify="left" if name in {"held by", "state"} else "right")
    for one in idle_holders(status):
        price = "no price" if one.per_hour is None else f"{one.per_hour:.2f}"
        table.add_row(escape(one.holder or "nobody"), one.state, str(one.gpus), price)
    console.print(table)
    for text in _words(status):
        console.print(escape(f"- {text}"), soft_wrap=True, highlight=False)


def _words(status: _Json) -> Iterator[str]:
    for node in freeable_nodes(status):
        how = f"by moving {node.pods} pods ({', '.join(node.moves)})" if node.pods else "it is empty already"
        warm = f", {node.warm_servers} of them warm model servers" if node.warm_servers else ""
        yield f"node {node.name} with {node.gpus:g} GPUs could go: {how}{warm}"
    scheduler = status.get("consolidation", {}).get("scheduler")
    if scheduler and scheduler["habit"] in {"Spreads", "Packs", "Mixed"}:
        yield f"how the scheduler fills nodes, by {scheduler.get('placements', 0)} placements: {scheduler['habit']}"
    elif scheduler:
        yield f"how the scheduler fills nodes is not known: {scheduler['habit']}"
    for held in status.get("consolidation", {}).get("held", ()):
        yield f"{held['nodes']} nodes stay: {held['reason']} ({held['message']})"
    savings = status.get("savings", {})
    potential = savings.get("summary") or "nothing yet"
    yield f"the ledger: {potential} could be saved a month; nothing counts as saved before a node has gone"
