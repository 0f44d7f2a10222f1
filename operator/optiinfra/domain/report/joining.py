"""From the answers of a metrics server to one history of a fleet.

Pure: frames in, `FleetHistory` out. Pods come as the workload that their names tell and are given to their owners, GPUs
by UUID to the workloads that held them, nodes by all that they are called; what cannot be joined is told as missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from optiinfra.domain.report.frames import FloatArray, Frame
from optiinfra.domain.report.history import Asked, FleetHistory, GpuHistory
from optiinfra.domain.report.joining_containers import containers, gpus_per_pod
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.report.joining_frames import Answers, added, answers, present
from optiinfra.domain.report.joining_gpus import GpuKey, Seen, gpu_history, gpu_key, seen_gpus
from optiinfra.domain.report.joining_holders import Holders, by_requests, requests, told_holders, with_silent
from optiinfra.domain.report.joining_lacks import Joined
from optiinfra.domain.report.joining_missing import missing
from optiinfra.domain.report.joining_models import KINDS, Models, serving_stems
from optiinfra.domain.report.joining_nodes import nodes
from optiinfra.domain.report.joining_owners import Owners, owners
from optiinfra.domain.report.joining_places import Places, places
from optiinfra.domain.report.joining_scalers import scalers
from optiinfra.domain.report.joining_versions import Versions
from optiinfra.domain.units import UnixTime

_EVERYTHING: Final = Found()


def join(
    frames: Iterable[Frame],
    *,
    now: UnixTime,
    found: Found = _EVERYTHING,
    unanswered: Sequence[tuple[str, str]] = (),
) -> FleetHistory:
    """Join the answers to `engines.promql_fleet.fleet_questions`.

    `now` is the time of whoever asks, by which samples of the future are told; `unanswered` are questions without an
    answer and why.
    """
    given = tuple(frames)
    read = answers(given, now=now)
    where = places(read)
    owned = owners(read, serving=serving_stems(read))
    wanted = requests(read, owned)
    seen = seen_gpus(read, where)
    holders = _holders(read, owned, found, where, seen)
    gpus = tuple(
        sorted((gpu_history(read, one, holders) for one in seen.values()), key=lambda gpu: (gpu.node, gpu.key))
    )
    held, held_source = dict(wanted.by_workload), "state.gpu_requests"
    if not held:
        held, held_source = _held(gpus), "agent.holders" if read.has("agent.holders") else "dcgm.holders"
    gpus_of: dict[tuple[str, str], list[str]] = {}
    for gpu in gpus:
        for holding in gpu.holdings:
            gpus_of.setdefault((holding.namespace, holding.workload), []).append(gpu.key)
    serving = {owned.of(*stem).key for stem in serving_stems(read)}
    boxes = containers(read, owned, frozenset({*serving, *held, *gpus_of}))
    containers_of: dict[tuple[str, str], list[str]] = {}
    for box in boxes:
        containers_of.setdefault((box.namespace, box.workload), []).append(box.container)
    models = Models(
        answers=read,
        owners=owned,
        scalers=scalers(read),
        found=found,
        versions=Versions(read, owned),
        held=held,
        held_source=held_source,
        gpus_of=gpus_of,
        containers_of=containers_of,
        per_pod=gpus_per_pod(read, owned),
    ).all()
    listed = nodes(read, where, owned, gpus)
    read.known = _known(read)
    resets, restarted = _resets(read, owned)
    return FleetHistory(
        times=read.times,
        step_s=read.step_s,
        models=models,
        gpus=gpus,
        nodes=listed,
        containers=boxes,
        missing=missing(
            Joined(
                answers=read,
                found=found,
                models=models,
                gpus=gpus,
                nodes=listed,
                unanswered=unanswered,
                holders=sorted(f"{namespace}/{name}" for namespace, name in {*held, *gpus_of}),
                resets=resets,
                restarted=restarted,
            )
        ),
        asked=tuple(
            Asked(one.question.name, one.question.promql, one.link, one.samples, len(one.keys)) for one in given
        ),
    )


def _holders(read: Answers, owned: Owners, found: Found, where: Places, seen: Mapping[GpuKey, Seen]) -> Holders:
    """Take what exporters say of holders; on nodes of which they say nothing at all, what requests settle."""
    parts = {
        labels["mig_uuid"]: (labels["uuid"], labels["gpu_instance"] or labels["mig_uuid"])
        for labels, _, _ in read.each("agent.parts")
        if labels["mig_uuid"]
    }

    def gpu_of(labels: Mapping[str, str]) -> GpuKey | None:
        key = parts.get(labels.get("mig_uuid", "")) or gpu_key(labels, where)
        return key if key in seen else None

    wanted = requests(read, owned)
    told = told_holders(read, owned, found, wanted, gpu_of)
    of_node: dict[str, list[tuple[GpuKey, FloatArray | None]]] = {}
    for key, one in seen.items():
        of_node.setdefault(one.node, []).append((key, one.courses.get("memory_used")))
    silent = {node: gpus for node, gpus in of_node.items() if not any(told.holdings.get(key, ()) for key, _ in gpus)}
    return with_silent(told, silent, by_requests(read, wanted, silent) if wanted.told else None)


def _held(gpus: Iterable[GpuHistory]) -> dict[tuple[str, str], FloatArray]:
    """Count the GPUs of each workload by who held them."""
    counts: dict[tuple[str, str], FloatArray] = {}
    for gpu in gpus:
        mine: dict[tuple[str, str], FloatArray] = {}
        for holding in gpu.holdings:
            key = holding.namespace, holding.workload
            mine[key] = np.fmax(mine.get(key, np.nan), np.where(holding.held, 1.0, np.nan))
        for key, one in mine.items():
            counts[key] = added(counts[key], one) if key in counts else one
    return counts


def _known(read: Answers) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell when any engine or GPU was measured."""
    known = np.zeros(read.points, dtype=np.bool_)
    fine = (*(f"{prefix}.serving" for prefix in KINDS), "dcgm.utilization", "agent.utilization")
    # Power is read by the hour, so that it hides shorter holes: it counts only where nothing else is measured.
    for name in fine if read.has(*fine) else ("dcgm.power",):
        rows = read.rows(name)
        if rows is not None and len(rows):
            known |= np.isfinite(rows.values).any(axis=0)
    return known


def _resets(read: Answers, owned: Owners) -> tuple[int, tuple[str, ...]]:
    total = 0.0
    where: dict[str, float] = {}
    for prefix in KINDS:
        for labels, values, _ in read.each(f"{prefix}.resets"):
            count = float(values[present(values)].sum())
            if count:
                owner = owned.of(labels["namespace"], labels["workload"])
                where[f"{owner.namespace}/{owner.name}"] = where.get(f"{owner.namespace}/{owner.name}", 0.0) + count
                total += count
    return round(total), tuple(sorted(where, key=lambda key: (-where[key], key)))
