"""Proposals that are not about one model's replicas: GPUs that others hold idle, nodes that could go, GPUs too many.

Each claims GPUs of its holder's accounts, or of those that nobody held, so that `money` can take out what overlaps.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.accounts import FREE, Held
from optiinfra.domain.report.cases import ModelCase
from optiinfra.domain.report.drafts import Draft
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import FleetHistory
from optiinfra.domain.report.idle_gpus import GpuDoing
from optiinfra.domain.report.money import Account
from optiinfra.domain.report.nodes import Going
from optiinfra.domain.report.pricing import Pricing
from optiinfra.domain.report.report import Fact
from optiinfra.domain.units import Ratio

LEAST_IDLE_SHARE: Final = 0.5
"""Share of what somebody holds that is idle, from which it is told as theirs."""
LEAST_IDLE_HOURS: Final = 24.0
"""GPU-hours."""
NEVER_USED: Final = 0.98
"""Share of a GPU's measured time without work from which its model is said not to use it."""
LEAST_MEASURED_S: Final = 86_400.0
MOST_NAMED: Final = 8
DOING: Final = ("dcgm.utilization", "dcgm.sm_active", "dcgm.holders", "agent.utilization", "agent.holders")
"""Beginnings of the names of questions: what GPUs did and for whom; what nodes have and what is on them."""
NODES: Final = ("state.capacity", "state.allocatable", "state.node", "state.pod", "state.taints")


def questions(history: FleetHistory, *prefixes: str) -> tuple[str, ...]:
    """Return the names of the questions asked that begin so."""
    return tuple(one.question for one in history.asked if one.question.startswith(prefixes))


def idle_drafts(
    doings: Sequence[GpuDoing], held: Held, models: Mapping[str, ModelCase], *, history: FleetHistory
) -> list[Draft]:
    """Tell holders that are no model service and whose GPUs are idle most of the time."""
    found: dict[str, tuple[FloatArray, FloatArray, set[str]]] = {}
    points = len(history.times)
    hours = history.step_s / 3600.0
    for one in doings:
        for holding in one.gpu.holdings:
            if holding.key in models:
                continue
            idle, measured, uuids = found.setdefault(holding.key, (np.zeros(points), np.zeros(points), set()))
            idle += one.idle & holding.held
            measured += one.known & holding.held
            uuids.add(one.gpu.key)
    drafts = []
    for key, (idle, measured, uuids) in sorted(found.items()):
        total, seen = float(idle.sum()) * hours, float(measured.sum()) * hours
        accounts = held.by_holder.get(key, ())
        if total < LEAST_IDLE_HOURS or total < LEAST_IDLE_SHARE * seen or not accounts:
            continue
        sources = questions(history, *DOING)
        drafts.append(
            Draft(
                type=RecommendationType.IDLE_GPU,
                reason="IdleHeld",
                subject=key,
                title=f"{key}: {len(uuids)} GPUs idle for {total / max(seen, 1e-9):.0%} of the time",
                message=(
                    f"It held {len(uuids)} GPUs and did nothing on them for {total:.0f} of {seen:.0f} GPU-hours "
                    "measured, pauses of less than half an hour left out. Ask its owner, or give it GPUs on demand."
                ),
                setting="GPUs held while idle",
                current=f"{float(idle.mean()):.2f}",
                proposed="0",
                confidence=Ratio(0.8),
                claims=shared(accounts, idle),
                evidence=(
                    Fact("idle_gpu_hours", total, "GPU-hours", "sum", "exporter"),
                    Fact("measured_gpu_hours", seen, "GPU-hours", "sum", "exporter"),
                ),
                sources=sources,
                risk="Its work may come in bursts worth waiting for; a notebook loses what it holds in memory.",
                verification="The GPUs of its node are free or busy.",
                undo="Start it again.",
            )
        )
    return drafts


def unused_drafts(
    doings: Sequence[GpuDoing], held: Held, models: Mapping[str, ModelCase], *, history: FleetHistory
) -> list[Draft]:
    """Tell models that work and hold GPUs that never do."""
    if not len(history.times):
        return []
    least = LEAST_MEASURED_S / history.step_s
    drafts = []
    for key, one in sorted(models.items()):
        work = one.model.load.work
        if isinstance(work, Unknown) or not float(np.nansum(work)) > 0.0:
            continue
        idle = np.zeros(len(history.times))
        names = []
        worked = 0
        for doing in doings:
            mine = np.zeros(len(history.times), dtype=np.bool_)
            for holding in doing.gpu.holdings:
                if holding.key == key:
                    mine |= holding.held
            measured = int((mine & doing.known).sum())
            if measured < least:
                continue
            if int((mine & doing.idle).sum()) >= NEVER_USED * measured:
                idle += mine & doing.idle
                names.append(doing.gpu.key)
            else:
                worked += 1
        if not names or not worked:
            continue
        total = float(idle.sum()) * history.step_s / 3600.0
        drafts.append(
            Draft(
                type=RecommendationType.GPU_SHARE,
                reason="GpusNeverUsed",
                subject=key,
                title=f"{one.model.workload}: {len(names)} of {len(names) + worked} GPUs never used",
                message=(
                    f"It served all the time it was asked, and {len(names)} of its GPUs "
                    f"({', '.join(names[:MOST_NAMED])}) did nothing for {total:.0f} GPU-hours: fewer replicas, or a "
                    "smaller tensor parallelism, would have done."
                ),
                setting="GPUs",
                current=f"{len(names) + worked}",
                proposed=f"{worked}",
                confidence=Ratio(0.7),
                claims=shared(held.by_holder.get(key, ()), idle),
                evidence=(Fact("idle_gpu_hours", total, "GPU-hours", "sum", "exporter"),),
                sources=questions(history, *DOING),
                risk="A standby replica looks like this too.",
                verification="Every GPU of the model shows work.",
                undo="Give the GPUs back to its pods.",
            )
        )
    return drafts


def node_drafts(going: Sequence[Going], held: Held, pricing: Pricing, *, history: FleetHistory) -> list[Draft]:
    """Tell nodes whose pods have room elsewhere."""
    drafts = []
    for one in going:
        account = held.free.get(one.gpu)
        priced = pricing.nodes.get(one.node.node)
        if account is None or priced is None:
            continue
        moves = one.plan.moves_of(one.node.node)
        moved = ", ".join(f"{move.namespace}/{move.pod} to {move.target}" for move in moves[:MOST_NAMED])
        more = f" and {len(moves) - MOST_NAMED} more" if len(moves) > MOST_NAMED else ""
        how = f"its {len(moves)} pods have room elsewhere: {moved}{more}" if moves else "no pod with GPUs is on it"
        freed = np.where(priced.present, priced.gpus, 0.0)
        drafts.append(
            Draft(
                type=RecommendationType.CONSOLIDATION,
                reason="EmptyableNode",
                subject=one.node.node,
                title=f"node {one.node.node} with {priced.gpus:g} GPUs could go",
                message=(
                    f"At the end of the window {how}. Its GPU-hours count where as many GPUs of its kind were free at "
                    "the same time."
                ),
                setting="node",
                current="there",
                proposed="gone",
                confidence=Ratio(0.6 if moves else 0.75),
                claims=((account, freed),),
                apart=True,
                evidence=(
                    Fact("gpus", priced.gpus, "", "last", "kubernetes"),
                    Fact("moves", float(len(moves)), "", "sum", "derived"),
                    Fact("warm_moves", float(one.node.warm), "", "sum", "derived"),
                ),
                sources=questions(history, *NODES),
                worse=(f"{one.node.warm} model servers start anew on other nodes.",) if one.node.warm else (),
                risk=(
                    "A metrics server tells no disruption budgets, affinities or volumes: look at them before anything "
                    "is drained, or let the operator plan it."
                ),
                verification="The node is gone, and every pod of it is ready elsewhere.",
                undo="Add the node again.",
            )
        )
    return drafts


def shared(accounts: Sequence[Account], gpus: FloatArray) -> tuple[tuple[Account, FloatArray], ...]:
    """Spread GPUs over a holder's accounts, by what each held at the moment."""
    total = np.sum([one.held for one in accounts], axis=0) if accounts else np.zeros(len(gpus))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [np.where(total > 0.0, one.held / total, 0.0) for one in accounts]
    return tuple((one, gpus * share) for one, share in zip(accounts, shares, strict=True))


__all__ = ["FREE", "idle_drafts", "node_drafts", "questions", "shared", "unused_drafts"]
