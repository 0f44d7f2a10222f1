"""`optiinfra replay consolidation`: how full your GPUs could be, by the operator's own placement, on a list of pods.

NODES.csv has `sn,cpu_milli,memory_mib,gpu,model`, PODS.csv `name,cpu_milli,memory_mib,num_gpu,gpu_milli` and perhaps
`gpu_spec` (models that will do, separated by `|`): the columns of the openb traces, plain or gzip; other columns are
not read. Pods arrive in a random order, with random duplicates until they ask for `--load` of all GPUs. From a load of
1 on, each is placed once or dropped; below, the emptiest nodes are emptied at the end, within `--moves-per-pod`. The
file of placements has a row a pod in order of arrival; replaying it against the two lists gives the printed figures.
`--churn-hours` goes on from there: pods end, others come, nodes are emptied hourly; the file has the pods of the end.
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from optiinfra.cli.replay_openb import read_nodes, read_pods
from optiinfra.domain.placement.arrivals import Arrival, inflate
from optiinfra.domain.placement.best import BestRule, giving_back
from optiinfra.domain.placement.churn import Churned, churn
from optiinfra.domain.placement.cluster import Cluster, Node, Placement
from optiinfra.domain.placement.drain import Drained, Residents, drain
from optiinfra.domain.placement.fill import Filled, active_utilization, fill, gpu_capacity
from optiinfra.domain.placement.fragmentation import FragmentationRule
from optiinfra.domain.placement.rules import RULES
from optiinfra.domain.placement.scheduler import MakeRule, Scheduler
from optiinfra.errors import OptiInfraError

OURS: Final = "optiinfra"
FULL: Final = 1.0
"""From this load on there is no empty node to give back: nothing is moved, and opening a node has no price."""


def _simple(name: str) -> MakeRule:
    return lambda _cluster, _demand: RULES[name]


MAKERS: Final[Mapping[str, MakeRule]] = {
    OURS: BestRule,
    "fgd": FragmentationRule,
    **{name.replace(" ", "-").lower(): _simple(name) for name in RULES},
}
"""Rules by the names that `--rule` takes."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Everything that is printed and written."""

    rule: str
    cluster: Cluster
    arrivals: Sequence[Arrival]
    filled: Filled
    drained: Drained
    places: Sequence[tuple[str, Placement | None]]
    """Names and places as the file has them."""
    churned: Churned | None
    cpu_s: float

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        pods = len(self.arrivals)
        dropped = sum(one is None for one in self.filled.placements)
        found: dict[str, Any] = {
            "rule": self.rule,
            "nodes": len(self.cluster),
            "gpus": gpu_capacity(self.cluster) / 1_000,
            "pods": pods,
            "placed": pods - dropped,
            "dropped": dropped,
            "gpu_allocated_at_100": self.filled.allocated_at_100,
            "gpu_allocated_end": self.filled.allocated_end,
            "active_gpu_utilization": active_utilization(self.cluster),
            "moves": self.drained.moves,
            "moves_per_pod": self.drained.moves / max(1, pods),
            "nodes_emptied": self.drained.nodes,
            "cpu_seconds": round(self.cpu_s, 3),
        }
        if self.churned is not None:
            one = self.churned
            found |= {
                "active_gpu_utilization": one.active_utilization,
                "moves": one.moves,
                "moves_per_pod": one.moves_per_pod,
                "nodes_emptied": one.nodes_emptied,
                "churn": {
                    "hours": one.hours,
                    "arrived": one.arrived,
                    "dropped": one.dropped,
                    "load": one.load,
                    "active_gpu_utilization_end": active_utilization(self.cluster),
                },
            }
        return found


def replay(
    nodes: Sequence[Node],
    pods: Sequence[Arrival],
    *,
    load: float,
    seed: int,
    rule: str = OURS,
    moves_per_pod: float = 0.1,
    churn_hours: int = 0,
    lifetime_h: float = 24.0,
) -> Replayed:
    """Fill a cluster, drain it, and let pods come and go. Raises PlacementError."""
    began = time.process_time()
    cluster = Cluster(nodes)
    arrivals = inflate(pods, gpu_milli=gpu_capacity(cluster), load=load, seed=seed)
    scheduler = Scheduler(cluster, giving_back if rule == OURS and load < FULL else MAKERS[rule])
    filled = fill(scheduler, arrivals)
    residents = Residents(len(cluster))
    for index, placement in enumerate(filled.placements):
        if placement is not None:
            residents.put(index, placement)
    drained = Drained(0, 0)
    churned: Churned | None = None
    places: Sequence[tuple[str, Placement | None]]
    if churn_hours:
        churned = churn(
            scheduler,
            residents,
            pods,
            hours=churn_hours,
            lifetime_h=lifetime_h,
            moves_per_pod=moves_per_pod,
            seed=seed,
        )
        names = {index: arrival.name for index, arrival in enumerate(arrivals)}
        places = [(names.get(pod, f"arrival-{pod}"), residents.places[pod]) for pod in sorted(residents.places)]
    else:
        if load < FULL:
            drained = drain(scheduler.placer, residents, budget=int(moves_per_pod * len(arrivals)))
        places = [(arrival.name, residents.places.get(index)) for index, arrival in enumerate(arrivals)]
    return Replayed(rule, cluster, arrivals, filled, drained, places, churned, time.process_time() - began)


def write_placements(path: Path, replayed: Replayed) -> None:
    """Write `pod,node,gpu_devices`, a row a pod in order of arrival. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pod", "node", "gpu_devices"))
        for name, placement in replayed.places:
            if placement is None:
                writer.writerow((name, "", ""))
                continue
            node = replayed.cluster.nodes[placement.node].name
            writer.writerow((name, node, ";".join(str(device) for device in placement.devices)))


@click.command("consolidation")
@click.option("--nodes", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="NODES.csv.")
@click.option("--pods", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PODS.csv.")
@click.option(
    "--load",
    type=click.FloatRange(0.01, 10.0),
    default=1.3,
    show_default=True,
    help="GPUs that the arriving pods ask for, as a share of all.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=42, show_default=True, help="Of order and duplicates."
)
@click.option("--rule", type=click.Choice(sorted(MAKERS)), default=OURS, show_default=True, help="Who places.")
@click.option(
    "--moves-per-pod",
    type=click.FloatRange(0.0, 10.0),
    default=0.1,
    show_default=True,
    help="Most moves of drains for each pod that arrives, at loads below 1.",
)
@click.option("--churn-hours", type=click.IntRange(0, 24 * 365), default=0, help="Hours of pods that end and come.")
@click.option(
    "--lifetime",
    "lifetime_h",
    type=click.FloatRange(0.1, 24.0 * 365.0),
    default=24.0,
    show_default=True,
    help="Mean lifetime of a pod under churn, in hours.",
)
@click.option("--placements", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write places here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def consolidation(
    *,
    nodes: Path,
    pods: Path,
    load: float,
    seed: int,
    rule: str,
    moves_per_pod: float,
    churn_hours: int,
    lifetime_h: float,
    placements: Path | None,
    as_json: bool,
) -> None:
    """Place a list of pods on a list of nodes: GPUs allocated, GPUs used on active nodes, moves."""
    try:
        replayed = replay(
            read_nodes(nodes),
            read_pods(pods),
            load=load,
            seed=seed,
            rule=rule,
            moves_per_pod=moves_per_pod,
            churn_hours=churn_hours,
            lifetime_h=lifetime_h,
        )
        if placements is not None:
            write_placements(placements, replayed)
    except OptiInfraError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"--placements {placements}: {error.strerror}") from error
    document = replayed.document()
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        _print(document)


def _print(document: Mapping[str, Any]) -> None:
    at_100, active = document["gpu_allocated_at_100"], document["active_gpu_utilization"]
    click.echo(
        f"{document['pods']} pods on {document['nodes']} nodes with {document['gpus']:g} GPUs, rule "
        f"{document['rule']}: {document['placed']} placed, {document['dropped']} dropped"
    )
    click.echo(f"GPUs allocated when all were asked for  {'-' if at_100 is None else f'{at_100:.2%}'}")
    click.echo(f"GPUs allocated at the end of filling    {document['gpu_allocated_end']:.2%}")
    click.echo(f"GPUs allocated on nodes in use          {'-' if active is None else f'{active:.2%}'}")
    click.echo(
        f"moves for each pod                      {document['moves_per_pod']:.3f}"
        f" ({document['nodes_emptied']} nodes emptied)"
    )
    if "churn" in document:
        one = document["churn"]
        click.echo(f"churn: {one['hours']} hours counted, {one['arrived']} pods came, mean load {one['load']:.1%}")
