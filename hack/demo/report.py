"""What the demonstration prints at its end: objects, one recommendation, the comparison, the checks, the caveats."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hack.cluster.errors import ClusterError
from hack.demo.comparison import Comparison, differences
from hack.demo.play import History
from hack.demo.stage import BUSY, EXAMPLES, VALUES, Stage
from hack.demo.verdict import IDLE, OPERATOR, REVIEWS, WRITES, Check, Facts
from hack.demo.waste import print_waste
from hack.demo.watch import CLUSTER_KIND, INFERENCE, KINDS

_SELECTOR = re.compile(
    r"[(/]?&LabelSelector\{MatchLabels:map\[string\]string\{([^}]*)\},"
    r"MatchExpressions:\[\]LabelSelectorRequirement\{\},\}\)?"
)
SIMULATED = """\
- Simulated: nodes, pods and their GPUs (KWOK); the engines of chat and embed-idle, and all node agents but one
  (optiinfra-sim). Times and speeds of the engines are plausible, not measured.
- Recorded: the pages of summarize come from a real vLLM 0.32 (CPU build, small random model).
- Real: etcd, kube-apiserver, HPA controller, scheduler, RBAC, aggregation; the chart, installed by Helm; the operator
  and one agent, as local processes under the chart's ServiceAccounts.
- The load: arrivals and lengths of Azure's public conversation trace, played four times as fast; its level over time
  was shaped by us, because the trace is nearly flat. It shows the mechanism and is no benchmark of your load.
- The GPU price of 2.50 USD an hour is an example (examples/demo/cluster.yaml); CPU and memory at OpenCost's prices."""


def shortenings() -> list[str]:
    """The times that the demonstration shortens, from its own values."""
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return [
        *(f"{name}={value}" for name, value in values["operator"]["environment"].items() if name.endswith("SECONDS")),
        f"agent.intervalSeconds={values['agent']['intervalSeconds']}",
        "interval, cooldown and verifyWindow of chat (examples/demo/optimizations.yaml)",
        "the windows of idleGpus and consolidation (examples/demo/cluster.yaml)",
    ]


def gather(stage: Stage, *, node: str, cpus: int) -> Facts:
    """Read what is needed for the checks once, at the end."""
    field = "involvedObject.kind%3DHorizontalPodAutoscaler,reason%3DSuccessfulRescale"
    events = stage.cluster.request("GET", f"/api/v1/namespaces/{INFERENCE}/events?fieldSelector={field}")["items"]
    return Facts(
        scaler_events=tuple(
            event["message"] for event in sorted(events, key=lambda event: str(event["lastTimestamp"]))
        ),
        agents=tuple(stage.agents()),
        snapshot=stage.real_snapshot(),
        real_agent=f"agent-{node}",
        cpus=cpus,
        writes=writes_of(stage.cluster.audit_log.read_text(encoding="utf-8").splitlines(), user=OPERATOR),
        cluster=stage.cluster.request("GET", CLUSTER_KIND).get("status", {}),
    )


def writes_of(lines: Sequence[str], *, user: str) -> Mapping[tuple[str, str, str], int]:
    """What a user wrote, from the lines of an audit log: questions about rights store nothing and are left out."""
    writes: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        reference = event.get("objectRef", {})
        if event["user"].get("username") != user or event["verb"] not in WRITES or reference.get("resource") in REVIEWS:
            continue
        resource = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
        name = "/".join(filter(None, (reference.get("namespace"), reference.get("name"))))
        writes[event["verb"], resource, name] += 1
    return dict(writes)


def print_end(
    console: Console,
    *,
    stage: Stage,
    history: History,
    facts: Facts,
    checks: Sequence[Check],
    comparison: Comparison | None,
) -> None:
    """Print everything."""
    console.rule("kubectl get ro,cro -A")
    console.print(escape(_kubectl(stage, "get", "ro,cro", "--all-namespaces")), soft_wrap=True, highlight=False)
    console.rule(f"one recommendation in full: ro {IDLE}")
    console.print(escape(recommendation(stage)), soft_wrap=True, highlight=False)
    scaler = f"hpa/optiinfra-{BUSY}"
    console.rule(f"kubectl events --for {scaler} (selectors shortened)")
    events = _kubectl(stage, "events", f"--namespace={INFERENCE}", f"--for={scaler}")
    console.print(escape(shortened(events)), soft_wrap=True, highlight=False)
    print_waste(console, facts.cluster)
    if comparison is not None:
        print_comparison(console, comparison, history=history)
    console.rule("what is simulated, and what is not")
    console.print(escape(SIMULATED), soft_wrap=True, highlight=False)
    console.print(escape(f"- Shortened for the demonstration: {'; '.join(shortenings())}."), soft_wrap=True)
    print_checks(console, checks)


def print_comparison(console: Console, comparison: Comparison, *, history: History) -> None:
    """Print the rows, and in words where ours is worse."""
    console.rule(f"the same load of {BUSY} under plain scalers, computed by the same simulator")
    console.print(escape(comparison.load), soft_wrap=True)
    table = Table(caption=f"over {comparison.horizon_seconds:g} s, start-up {comparison.startup_seconds:g} s")
    for name in ("scaler", "GPU-hours", f"late (> {comparison.late_after_seconds:g} s)", "TTFT p95", "peak"):
        table.add_column(name, justify="left" if name == "scaler" else "right")
    for row in comparison.rows:
        ttft = "-" if row.ttft_p95 is None else f"{row.ttft_p95:.1f} s"
        cells = (row.scaler, f"{row.gpu_hours:.3f}", f"{row.late_share:.2%}", ttft, str(row.peak))
        table.add_row(*cells, style="bold" if row.ours else "")
    console.print(table)
    for text in differences(comparison):
        console.print(escape(f"- {text}"), soft_wrap=True)
    last = history.begun[-1].trace if history.begun else None
    if last is not None:
        ttft = "-" if last.ttft_p95 is None else f"{last.ttft_p95:.1f} s"
        console.print(f"Counted while it ran: {last.arrived} requests, {last.late_share:.2%} late, TTFT p95 {ttft}.")


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print each claim with a tick or a cross and what was seen."""
    console.rule("what had to happen")
    for check in checks:
        mark = "[green]✔[/green]" if check.holds else "[bold red]✘[/bold red]"
        console.print(f"{mark} {escape(check.claim)}", soft_wrap=True, highlight=False)
        console.print(f"    {escape(check.seen)}", style="dim", soft_wrap=True, highlight=False)


def recommendation(stage: Stage) -> str:
    """The first recommendation of the idle service, as YAML."""
    found = stage.cluster.request("GET", f"{KINDS}/{IDLE}").get("status", {}).get("recommendations", [])
    return yaml.safe_dump(found[0], sort_keys=False, width=120) if found else "none"


def shortened(events: str) -> str:
    """The HPA controller writes each selector as Go prints it; give it as people write it."""
    return _SELECTOR.sub(lambda match: f"{{{match[1].rstrip(',')}}}", events)


def how_to_look(stage: Stage, *, command: str) -> list[str]:
    """What somebody can do with a demonstration that is left up."""
    kubectl = stage.cluster.binary("kubectl")
    return [
        f"export KUBECONFIG={stage.cluster.kubeconfig} PATH={kubectl.parent}:$PATH",
        "kubectl get ro,cro -A",
        "kubectl -n inference describe ro chat; kubectl -n inference describe hpa optiinfra-chat",
        f"kubectl get --raw /apis/external.metrics.k8s.io/v1beta1/namespaces/{INFERENCE}/optiinfra_desired_replicas",
        f"curl -s http://127.0.0.1:{stage.ports.http}/metrics",
        f"curl -s http://127.0.0.1:{stage.ports.real_agent}/v1/snapshot",
        f"examples: {EXAMPLES / 'demo'}; logs: {stage.programs.folder}",
        f"end it: {command}",
    ]


def _kubectl(stage: Stage, *arguments: str) -> str:
    try:
        return stage.cluster.kubectl(*arguments).rstrip()
    except ClusterError as error:
        return str(error)
