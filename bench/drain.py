"""What a drain plan costs, and what it frees: 5,000 nodes and 50,000 pods with all their rules, on one core.

`python -m bench.drain` prints a table, `--json` the same for machines, `--docs` also writes the table of
docs/benchmarks-drain.md; the exit status is 1 when a limit is missed.
The cluster is made up from a seed: five pools of nodes with eight GPUs in three zones, model servers and small pods of
several thousand Deployments and StatefulSets, groups, disruption budgets, taints, anti-affinity and spread. Time is
the process's own CPU time of one planning, cold, the largest memory that of the whole process with the cluster's facts.
"""

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.result import Result, shown
from bench.section import rewrite
from optiinfra.domain.consolidation import ClusterFacts, ConsolidationPlan, DrainPolicy, plan
from optiinfra.domain.label_rules import LabelOperator, LabelRule
from optiinfra.domain.pod_rules import (
    DisruptionBudget,
    PodGroup,
    PodRules,
    PodTerm,
    SpreadRule,
    Taint,
    TaintEffect,
    Toleration,
)
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

NOW = UnixTime(1.7e9)
GIB = 2.0**30
MODELS = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB", "NVIDIA-L40S", "NVIDIA-H200", "NVIDIA-A10G")
SPOT = Taint("spot", "", TaintEffect.NO_SCHEDULE)
HOSTNAME = "kubernetes.io/hostname"
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks-drain.md"
_BEGIN = "<!-- drain: written by python -m bench.drain --docs -->"
_END = "<!-- drain: end -->"


class _Templates:
    """Workloads from which pods are drawn; replicas share their rules and labels, as in a real mirror."""

    def __init__(self, rng: np.random.Generator, *, count: int, ruled: float) -> None:
        self.rules: list[PodRules] = []
        self.labels: list[dict[str, str]] = []
        self.gpus = rng.choice([0.0, 1.0, 1.0, 2.0, 4.0], size=count, p=[0.6, 0.2, 0.1, 0.07, 0.03])
        self.servers = np.flatnonzero(self.gpus > 0.0)
        self.small = np.flatnonzero(self.gpus == 0.0)
        self.cpu = np.where(self.gpus > 0, self.gpus * 8.0, rng.uniform(0.1, 2.0, count))
        self.memory = np.where(self.gpus > 0, self.gpus * 64.0, rng.uniform(0.2, 8.0, count)) * GIB
        self.start_up = np.where(self.gpus > 0, rng.uniform(60.0, 900.0, count), 5.0)
        self.stateful = rng.random(count) < 0.1
        self.grouped = (rng.random(count) < 0.03) & (self.gpus > 0)
        for number in range(count):
            app = f"app-{number}"
            chosen = (LabelRule("app", LabelOperator.IN, frozenset({app})),)
            namespace = frozenset({f"team-{number % 50}"})
            draw = rng.random()
            self.rules.append(
                PodRules(
                    tolerations=(Toleration("spot", exists=True),) if rng.random() < 0.3 else (),
                    anti_affinity=(PodTerm(HOSTNAME, chosen, namespace),) if draw < ruled / 2 else (),
                    spread=(SpreadRule("zone", 2, chosen),) if ruled / 2 <= draw < ruled else (),
                    resources=(("ephemeral-storage", 2.0 * GIB), ("nvidia.com/gpu", float(self.gpus[number]))),
                )
            )
            self.labels.append({"app": app, "team": f"team-{number % 50}"})


def made_up(rng: np.random.Generator, *, nodes: int, pods: int, fill: float, ruled: float) -> ClusterFacts:
    """Make a cluster whose nodes are filled to `fill` of their GPUs on average; `ruled` workloads have hard rules."""
    templates = _Templates(rng, count=max(1, pods // 12), ruled=ruled)
    each = pods / nodes
    found: list[NodeFacts] = []
    ordinals = [0] * len(templates.rules)
    for index in range(nodes):
        pool = index % len(MODELS)
        left = [8.0, 180.0, 1900.0 * GIB]
        limit = 8.0 * float(np.clip(rng.normal(fill, 0.25), 0.0, 1.0))
        here: list[PodFacts] = []
        apart: set[int] = set()
        for _ in range(int(rng.poisson(each))):
            serving = 8.0 - left[0] < limit and rng.random() < 0.7
            choices = templates.servers if serving else templates.small
            template = int(choices[rng.integers(len(choices))])
            want = [float(templates.gpus[template]), float(templates.cpu[template]), float(templates.memory[template])]
            if any(w > have for w, have in zip(want, left, strict=True)):
                continue
            if templates.rules[template].anti_affinity and template in apart:
                continue
            apart.add(template)
            left = [have - w for w, have in zip(want, left, strict=True)]
            here.append(_pod(rng, templates, template, ordinals, node=f"node-{index:05d}", want=want))
        found.append(
            NodeFacts(
                name=f"node-{index:05d}",
                pool=f"pool-{pool}",
                gpu_model=MODELS[pool],
                gpus=8.0,
                cpu_cores=192.0,
                memory_bytes=2048.0 * GIB,
                ready=True,
                unschedulable=False,
                labels={HOSTNAME: f"node-{index:05d}", "zone": f"zone-{index % 3}"},
                pods=tuple(here),
                taints=(SPOT,) if index % 7 == 0 else (),
                resources=(("ephemeral-storage", 3000.0 * GIB), ("nvidia.com/gpu", 8.0)),
                pod_limit=110.0,
            )
        )
    budgets = [
        DisruptionBudget(
            f"team-{number % 50}",
            f"app-{number}",
            (LabelRule("app", LabelOperator.IN, frozenset({f"app-{number}"})),),
            allowed=int(rng.integers(0, 4)),
            expected=12,
            healthy=12,
            desired=9,
        )
        for number in range(len(templates.rules))
        if rng.random() < 0.3
    ]
    return ClusterFacts(nodes=found, budgets=budgets)


def _pod(
    rng: np.random.Generator, templates: _Templates, template: int, ordinals: list[int], *, node: str, want: list[float]
) -> PodFacts:
    number = ordinals[template] = ordinals[template] + 1
    kind = "StatefulSet" if templates.stateful[template] else "ReplicaSet"
    name = f"app-{template}-{number}"
    draw = rng.random()
    return PodFacts(
        name=name,
        uid=name,
        ip="10.0.0.1",
        node=node,
        phase="Running",
        ready=True,
        terminating=False,
        created=NOW,
        became_ready=UnixTime(NOW + float(templates.start_up[template])),
        gpus=want[0],
        cpu_request_cores=want[1],
        memory_request_bytes=want[2],
        namespace=f"team-{template % 50}",
        labels=templates.labels[template],
        rules=templates.rules[template],
        owner=(kind, f"app-{template}"),
        group=PodGroup("LeaderWorkerSet", f"app-{template}-{number // 4}") if templates.grouped[template] else None,
        blockers=("DaemonSet",) if draw < 0.1 and not want[0] else ("LocalStorage",) if draw > 0.995 else (),
    )


def measured(label: str, cluster: ClusterFacts) -> tuple[list[Result], ConsolidationPlan]:
    """Plan once, cold, and tell what it took and what came of it."""
    policy = DrainPolicy(max_moves=10**6, headroom=0.1)
    began = time.process_time()
    result = plan(cluster, policy, now=NOW)
    took = time.process_time() - began
    pods = sum(len(node.pods) for node in cluster.nodes)
    held = sum(pod.gpus for node in cluster.nodes for pod in node.pods) / sum(node.gpus for node in cluster.nodes)
    size = f"{len(cluster.nodes)} nodes, {pods} pods, {held:.0%} of the GPUs"
    what = f"{size}, {label}: {len(result.freed)} freed, {len(result.moves)} moves"
    return [Result(what, took, "s", 20.0)], result


def _write(results: Sequence[Result]) -> None:
    rows = ["| what | measured | needed |", "|---|---|---|"]
    for result in results:
        needed = "" if result.limit is None else f"<= {result.limit:,g} {result.unit}"
        rows.append(f"| {result.name} | {result.value:,.1f} {result.unit} | {needed} |")
    rewrite(DOCUMENT, "\n".join([_BEGIN, *rows, _END]), begin=_BEGIN, end=_END)


def main() -> int:
    """Run all and print; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000, help="nodes (default 5000)")
    parser.add_argument("--pods", type=int, default=50_000, help="pods (default 50000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--docs", action="store_true", help=f"write the table of {DOCUMENT.name}")
    options = parser.parse_args()
    results: list[Result] = []
    for label, fill, ruled in (
        ("few rules", 0.5, 0.02),
        ("every third workload with rules", 0.5, 0.33),
        ("every third workload with rules", 0.9, 0.33),
    ):
        cluster = made_up(np.random.default_rng(3), nodes=options.nodes, pods=options.pods, fill=fill, ruled=ruled)
        results += measured(label, cluster)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    results.append(Result("largest memory of the process, with the facts", peak, "MiB", 1024.0))
    if options.docs:
        _write(results)
    return shown(results, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
