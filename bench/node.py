"""What agent and operator cost in their containers on a real node, and how soon they say something.

`python -m bench.node` starts a node (`hack.node`, root), builds the images and loads them, and prints a table
with what is needed beside each figure; `--out docs/real-node-costs.md` writes it down, `--json` prints it for machines.
It returns 1 when a needed figure is missed. `--quick` looks at ten objects for two minutes, to see that it runs.

The order: an engine runs; `helm install` with default values, and the object beside it, until there is a
recommendation; pods one by one start again; a hundred objects on simulated nodes are looked after; then nothing is done
for ten minutes but what goes on by itself: the operator reads the agent every 15 s, and so does this bench, as a
Prometheus would. Memory and CPU are read from the containers' control groups. All shares the machine's cores.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.agent_tables import Figure, Needed, print_table
from bench.node_stage import IMAGES, PYTHON, Document, Stage, is_ready, stage
from bench.node_tables import document
from hack.cluster.sessions import session_folder, sweep
from hack.node import engine_pods
from hack.node.cluster import NAME
from hack.node.requirements import ELSEWHERE, unmet
from hack.node.sandbox import ROOT
from hack.node.usage import Usage
from optiinfra_sim.engine import Engine
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.settings import EngineSettings

NAMESPACE = "inference"
OBJECTS = f"/apis/optiinfra.io/v1alpha1/namespaces/{NAMESPACE}/resourceoptimizations"
AGENT, OPERATOR, BOTH = "agent", "operator", "installation"
MIB = float(1 << 20)
INTERVAL_S = 15.0
POD_REPLICAS = 2
ROOM = 100
"""Pods of ours on a simulated node, which takes 110."""
FIRST = Needed(30.0)
START = Needed(5.0)
AGENT_MEMORY = Needed(56.0, 40.0)
AGENT_CPU = Needed(1.0, 0.3)
OPERATOR_MEMORY = Needed(160.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at, and how long."""

    objects: int
    seconds: float
    settle_seconds: float
    starts: int


QUICK = Options(objects=10, seconds=120.0, settle_seconds=30.0, starts=1)


def page(*, busy: bool) -> str:
    """Return a page of vLLM: at rest, or with a long queue."""
    engine = Engine(settings=EngineSettings(max_num_seqs=64))
    engine.advance(to=60.0)
    lines = render(engine, times=PageTimes(started=0.0, serving=1.0)).decode().splitlines()
    busiest = {"vllm:num_requests_running{": 60, "vllm:num_requests_waiting{": 400}
    numbers = busiest if busy else {}
    return "".join(f"{_with(line, numbers)}\n" for line in lines)


def _with(line: str, numbers: dict[str, int]) -> str:
    value = next((value for name, value in numbers.items() if line.startswith(name)), None)
    return line if value is None else f"{line.rpartition(' ')[0]} {value:.1f}"


def body(name: str) -> Document:
    """Return the object of a service, as the first steps have it."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ResourceOptimization",
        "metadata": {"name": name},
        "spec": {"targetRef": target},
    }


def first_recommendation(on: Stage) -> list[Figure]:
    """Install the release beside an engine that runs, and wait for what it recommends."""
    node = on.node
    node.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    node.request("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", engine_pods.config_map("busy", page(busy=True)))
    pods = engine_pods.deployment(
        "busy", image=IMAGES["agent"], python=PYTHON, replicas=1, gpus=1, node_labels={"kubernetes.io/hostname": NAME}
    )
    node.request("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", pods)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app=busy"
    on.until(lambda: any(is_ready(pod) for pod in node.request("GET", path)["items"]), what="the engine is ready")
    here = f"nodeSelector.kubernetes\\.io/hostname={NAME}"
    began = on.install(f"agent.{here}", f"operator.{here}", "agent.runtimeClassName=nvidia")
    on.until(lambda: bool(node.request("POST", OBJECTS, body("busy"))), what="the definitions are there")
    made = time.monotonic()
    said = on.until(lambda: bool(_status(on, "busy").get("recommendations")), what="the first recommendation")
    on.ready("agent", 1)
    on.ready("operator", 2)
    return [
        Figure(BOTH, "helm install to the first recommendation", said - began, "s", FIRST),
        Figure(BOTH, "  of which until the object was made", made - began, "s"),
    ]


def _status(on: Stage, name: str) -> Document:
    found: Document = on.node.request("GET", f"{OBJECTS}/{name}").get("status", {})
    return found


def starts(on: Stage, times: int) -> list[Figure]:
    """Let pods start again, one at a time: an operator that does not lead, and the agent."""
    figures = []
    for who, count in ((OPERATOR, 2), (AGENT, 1)):
        took, used = [], []
        for _ in range(times):
            leading = on.leader()["metadata"]["uid"] if who == OPERATOR else ""
            pod = next(one for one in on.pods(who) if one["metadata"]["uid"] != leading)
            seconds, cpu = on.restart(pod, who, count)
            took.append(seconds)
            used.append(cpu)
        many = f"median of {times}"
        figures += [
            Figure(who, f"container started to Ready, {many}", statistics.median(took), "s", START),
            Figure(who, f"CPU time of that start, {many}", statistics.median(used), "s"),
        ]
    return figures


def fleet(on: Stage, size: int, folder: Path) -> None:
    """Make services on simulated nodes, each with its object, and wait until all are heard."""
    file = folder / "page"
    file.write_text(page(busy=False), encoding="utf-8")
    command = ("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "bench.node_pages")
    on.node.start("pages", *command, str(file), str(engine_pods.PORT))
    names = [f"service-{number}" for number in range(size)]
    for name in names:
        pods = engine_pods.deployment(name, image="vllm/vllm-openai:v0.32.0", python="python", replicas=POD_REPLICAS)
        spec = pods["spec"]["template"]["spec"]
        spec["affinity"] = _elsewhere()
        spec["volumes"] = []
        spec["containers"][0]["volumeMounts"] = []
        on.node.request("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", pods)
        on.node.request("POST", OBJECTS, body(name))

    def heard() -> bool:
        items = on.node.request("GET", OBJECTS)["items"]
        return sum(_is_heard(item) for item in items) == size + 1

    on.until(heard, what=f"{size} objects are looked after")


def _elsewhere() -> Document:
    rule = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [NAME]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _is_heard(item: Document) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    return any(each["type"] == "MetricsAvailable" and each["status"] == "True" for each in conditions)


def at_rest(on: Stage, *, seconds: float, objects: int, say: Callable[[str], None]) -> list[Figure]:
    """Read the agent every 15 s and look at both containers; memory is the most of all looks."""
    agent, leader = on.pods(AGENT)[0], on.leader()
    before = {AGENT: on.usage(agent), OPERATOR: on.usage(leader)}
    looks: dict[str, list[Usage]] = {AGENT: [], OPERATOR: []}
    began = time.monotonic()
    reads = 0
    while time.monotonic() - began < seconds:
        reads += 1
        time.sleep(max(0.0, began + reads * INTERVAL_S - time.monotonic()))
        on.page(agent, 8003, "/metrics")
        looks[AGENT].append(on.usage(agent))
        looks[OPERATOR].append(on.usage(leader))
        say(f"{time.monotonic() - began:.0f} s: agent {looks[AGENT][-1].resident / MIB:.1f} MiB")
    lasted = time.monotonic() - began
    for who, pod in ((AGENT, agent), (OPERATOR, leader)):
        now = next(one for one in on.pods(who) if one["metadata"]["uid"] == pod["metadata"]["uid"])
        if (
            now["status"]["containerStatuses"][0]["restartCount"]
            != pod["status"]["containerStatuses"][0]["restartCount"]
        ):
            raise RuntimeError(f"the {who} was restarted meanwhile: its figures mean nothing")
    minutes = f"{lasted / 60:.0f} min at {INTERVAL_S:.0f} s"
    figures = []
    for who, memory, cpu in ((AGENT, AGENT_MEMORY, AGENT_CPU), (OPERATOR, OPERATOR_MEMORY, None)):
        seen = looks[who]
        share = (seen[-1].cpu_seconds - before[who].cpu_seconds) / lasted * 100.0
        load = f", {objects} objects" if who == OPERATOR else ""
        figures += [
            Figure(
                who, f"resident memory, most in {minutes}{load}", max(u.resident for u in seen) / MIB, "MiB", memory
            ),
            Figure(who, "working set of its cgroup, most", max(u.working_set for u in seen) / MIB, "MiB"),
            Figure(who, "memory charged to its cgroup, ever", seen[-1].peak / MIB, "MiB"),
            Figure(who, "growth of resident memory meanwhile", (seen[-1].resident - seen[0].resident) / MIB, "MiB"),
            Figure(who, "CPU of one core", share, "%", cpu),
        ]
    return figures


def measure(options: Options, *, say: Callable[[str], None]) -> list[Figure]:
    """Run all phases and return every figure."""
    sweep()
    simulated = -(-options.objects * POD_REPLICAS // ROOM)
    with (
        tempfile.TemporaryDirectory() as folder,
        stage(session_folder("bench-node"), simulated=simulated, say=say) as on,
    ):
        figures = first_recommendation(on)
        figures += starts(on, options.starts)
        fleet(on, options.objects, Path(folder))
        time.sleep(options.settle_seconds)
        return figures + at_rest(on, seconds=options.seconds, objects=options.objects, say=say)


def told() -> str:
    """Say where and when it was measured."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()} outside of the containers; "
        f"{os.cpu_count()} cores of {platform.machine()}, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f} at the end. The control plane, both operators and the bench share them."
    )


def read_options() -> tuple[Options, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100, help="objects to look after (default 100)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes at rest (default 10)")
    parser.add_argument("--starts", type=int, default=3, help="starts to take the median of (default 3)")
    parser.add_argument("--quick", action="store_true", help="few objects, two minutes: to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the table to this file, such as docs/real-node-costs.md")
    given = parser.parse_args()
    options = Options(given.objects, 60.0 * given.minutes, 60.0, given.starts)
    return QUICK if given.quick else options, given


def main() -> int:
    """Measure and print; 1 when a needed figure is missed, 2 where there can be no node."""
    options, given = read_options()
    if missing := unmet():
        print(f"no real node here: {'; '.join(missing)}. {ELSEWHERE}", file=sys.stderr)
        return 2
    figures = measure(options, say=lambda text: print(text, file=sys.stderr, flush=True))
    if given.json:
        rows = [asdict(one) | {"name": f"{one.who}: {one.name}", "limit": one.limit} for one in figures]
        print(json.dumps(rows, indent=1))
    else:
        print_table(figures)
    if given.out:
        given.out.write_text(document(figures, told=told()), encoding="utf-8")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
