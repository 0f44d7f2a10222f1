"""The fleet's and each model's figures: GPU-hours, cost, tokens and what a million of them cost.

All of a fleet's GPU-hours count in its cost, held or not, busy or not: that is what is paid. What is divided by tokens
is the same cost, so that idle GPUs make tokens dear. A sum over a window with holes is a sum over what was measured.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.accounts import Held
from optiinfra.domain.report.around import questions
from optiinfra.domain.report.cases import ModelCase, gpus_each
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import Course, FleetHistory
from optiinfra.domain.report.idle_gpus import GpuDoing
from optiinfra.domain.report.money import Account, Ledger
from optiinfra.domain.report.proposals import sources_of
from optiinfra.domain.report.report import Curves, Figure, FleetFigures, Limit, ModelReport, Refused, Replay
from optiinfra.domain.report.scaling import Played
from optiinfra.domain.units import HOURS_PER_MONTH

MILLION: Final = 1e6
LEAST_TOKENS: Final = 1_000.0
DRAWN: Final = 168
"""Points of a curve at most."""
GPU_HOURS: Final = "GPU-hours"
ACTIVITY: Final = ("dcgm.utilization", "dcgm.sm_active", "agent.utilization", "agent.sm_active")
"""Questions, by the beginning of their names: what GPUs did; who held them; how many there were, and of which kind."""
HOLDING: Final = ("state.gpu_requests", "dcgm.holders", "agent.holders")
PRESENCE: Final = ("state.capacity", "state.node_labels", "dcgm.utilization", "agent.utilization")


def total_of(course: Course, *, step_s: float) -> Value:
    """Return the sum of a rate over the window, of what was measured."""
    if isinstance(course, Unknown):
        return course
    known = np.isfinite(course)
    if not known.any():
        return Unknown(UnknownReason.NOT_MEASURED, "at no moment of the window")
    return float(course[known].sum()) * step_s


def per_million(cost: Value, *tokens: Value) -> Value:
    """Return cost a million tokens."""
    total = 0.0
    for one in tokens:
        if isinstance(one, Unknown):
            return one
        total += one
    if isinstance(cost, Unknown):
        return cost
    if total < LEAST_TOKENS:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"{total:.0f} tokens in the whole window")
    return cost / total * MILLION


def cost_of(ledger: Ledger, accounts: Sequence[Account]) -> Value:
    """Return what accounts cost; unknown where one of them has no price."""
    total = 0.0
    for one in accounts:
        cost = ledger.cost(one)
        if isinstance(cost, Unknown):
            return cost
        total += cost
    return total


def known_cost(ledger: Ledger) -> Value:
    """Return what all accounts with a price cost; unknown where none has one."""
    costs = [(one, ledger.cost(one)) for one in ledger.accounts if float(one.held.sum()) > 0.0]
    known = [cost for _, cost in costs if not isinstance(cost, Unknown)]
    missing = next((cost for _, cost in costs if isinstance(cost, Unknown)), None)
    if missing is not None and not known:
        return missing
    return sum(known)


def fleet_figures(
    history: FleetHistory, held: Held, doings: Sequence[GpuDoing], ledger: Ledger, currency: str
) -> FleetFigures:
    """Add everything up."""
    hours, points = history.step_s / 3600.0, max(1, len(history.times))
    kept = sum(float(one.held.sum()) for accounts in held.by_holder.values() for one in accounts)
    free = sum(float(one.held.sum()) for one in held.free.values())
    there = float(held.total.sum())
    weights = _weights(doings)
    idle: Value = Unknown(UnknownReason.NOT_MEASURED, "no GPU exporter: run dcgm-exporter or the OptiInfra agent")
    used: Value = idle
    if any(one.known.any() for one in doings):
        idle = sum(weight * float(one.idle.sum()) for one, weight in zip(doings, weights, strict=True)) * hours
        used = sum(weight * float(np.nansum(one.activity)) for one, weight in zip(doings, weights, strict=True))
    cost = known_cost(ledger)
    prompt = _sum([total_of(one.load.prompt_tokens, step_s=history.step_s) for one in history.models])
    generated = _sum([total_of(one.load.generation_tokens, step_s=history.step_s) for one in history.models])
    gpus, held_by = questions(history, *ACTIVITY), questions(history, *HOLDING)
    present = questions(history, *PRESENCE)
    tokens = tuple(
        dict.fromkeys(
            model.sources[name]
            for model in history.models
            for name in ("prompt_tokens", "generation_tokens")
            if name in model.sources
        )
    )
    month: Value = cost if isinstance(cost, Unknown) else cost / max(history.hours, 1e-9) * HOURS_PER_MONTH
    return FleetFigures(
        gpus=Figure(there / points, "GPUs", present),
        gpus_held=Figure(kept / points, "GPUs", held_by),
        gpus_used=Figure(used if isinstance(used, Unknown) else used / points, "GPUs", gpus),
        gpu_hours=Figure(there * hours, GPU_HOURS, present),
        held_gpu_hours=Figure(kept * hours, GPU_HOURS, held_by),
        idle_gpu_hours=Figure(idle, GPU_HOURS, gpus),
        unheld_gpu_hours=Figure(free * hours, GPU_HOURS, (*present, *held_by)),
        cost=Figure(cost, currency, present),
        cost_per_month=Figure(month, currency, present),
        prompt_tokens=Figure(prompt, "tokens", tokens),
        generation_tokens=Figure(generated, "tokens", tokens),
        cost_per_million_tokens=Figure(per_million(cost, prompt, generated), currency, (*tokens, *present)),
        cost_per_million_generated=Figure(per_million(cost, generated), currency, (*tokens, *present)),
    )


def model_report(
    one: ModelCase,
    history: FleetHistory,
    *,
    accounts: Sequence[Account],
    ledger: Ledger,
    doings: Sequence[GpuDoing],
    replay: Replay | Unknown,
    played: Played | Unknown,
    limits: tuple[Limit, ...],
    refused: tuple[Refused, ...],
    currency: str,
    notes: tuple[str, ...] = (),
) -> ModelReport:
    """Describe one model."""
    model, hours = one.model, history.step_s / 3600.0
    ran = model.replicas
    known = np.zeros(0) if isinstance(ran, Unknown) else ran[np.isfinite(ran)]
    why = ran if isinstance(ran, Unknown) else Unknown(UnknownReason.NOT_MEASURED, "at no moment of the window")
    held: Value = model.gpus_held if isinstance(model.gpus_held, Unknown) else float(np.nansum(model.gpus_held)) * hours
    cost: Value = held if isinstance(held, Unknown) else cost_of(ledger, accounts)
    prompt = total_of(model.load.prompt_tokens, step_s=history.step_s)
    generated = total_of(model.load.generation_tokens, step_s=history.step_s)
    version = (
        " ".join(part for part in (str(model.engines[0][0]), model.engines[0][1].text) if part) if model.engines else ""
    )
    tokens = sources_of(one, "prompt_tokens", "generation_tokens")
    gpus = (*sources_of(one, "gpus_held", "gpus_per_replica"), *questions(history, "dcgm.holders", "agent.holders"))
    return ModelReport(
        namespace=model.namespace,
        workload=model.workload,
        kind=model.kind,
        model=model.name,
        engine=version,
        gpus_per_replica=gpus_each(model),
        replicas=Figure(
            float(known.mean()) if known.size else why, "replicas", sources_of(one, "available", "serving")
        ),
        replicas_least=float(known.min()) if known.size else why,
        replicas_most=float(known.max()) if known.size else why,
        gpu_hours=Figure(held, GPU_HOURS, gpus),
        used_gpu_hours=Figure(_used(model.key, doings, hours), GPU_HOURS, questions(history, *ACTIVITY)),
        cost=Figure(cost, currency, gpus),
        prompt_tokens=Figure(prompt, "tokens", tokens),
        generation_tokens=Figure(generated, "tokens", tokens),
        cost_per_million_tokens=Figure(per_million(cost, prompt, generated), currency, (*tokens, *gpus)),
        cost_per_million_generated=Figure(per_million(cost, generated), currency, (*tokens, *gpus)),
        replay=replay,
        limits=limits,
        curves=curves_of(one, history, played),
        refused=refused,
        notes=(*notes, *_notes(one)),
    )


def curves_of(one: ModelCase, history: FleetHistory, played: Played | Unknown) -> Curves:
    """Thin the curves out to means of equal spans."""
    points = len(history.times)
    width = max(1, -(-points // DRAWN))
    ends = [min(at + width, points) - 1 for at in range(0, points, width)]
    missing = np.full(points, np.nan)
    ran = missing if isinstance(one.model.replicas, Unknown) else one.model.replicas
    ours, load = missing.copy(), missing.copy()
    if not isinstance(one.case, Unknown):
        load = one.case.load
        if not isinstance(played, Unknown):
            ours = played.ours
    return Curves(
        times=tuple(float(history.times[end]) for end in ends),
        ran=_thin(ran, width),
        ours=_thin(ours, width),
        load=_thin(load, width),
    )


def _thin(values: FloatArray, width: int) -> tuple[float | None, ...]:
    found: list[float | None] = []
    for at in range(0, len(values), width):
        part = values[at : at + width]
        part = part[np.isfinite(part)]
        found.append(round(float(part.mean()), 3) if part.size else None)
    return tuple(found)


def _used(key: str, doings: Sequence[GpuDoing], hours: float) -> Value:
    total, seen = 0.0, False
    for one, weight in zip(doings, _weights(doings), strict=True):
        for holding in one.gpu.holdings:
            if holding.key == key and one.known.any():
                seen = True
                total += weight * float(np.nansum(np.where(holding.held, one.activity, 0.0)))
    if not seen:
        return Unknown(UnknownReason.NOT_MEASURED, "no exporter says which of its GPUs worked")
    return total * hours


def _weights(doings: Sequence[GpuDoing]) -> list[float]:
    """A MIG instance counts as its share of the GPU's measured instances."""
    counts: dict[str, int] = {}
    for one in doings:
        counts[one.gpu.uuid] = counts.get(one.gpu.uuid, 0) + 1
    return [1.0 / counts[one.gpu.uuid] for one in doings]


def _sum(values: Sequence[Value]) -> Value:
    """Add up what is known; unknown where nothing is."""
    known = [one for one in values if not isinstance(one, Unknown)]
    if not known:
        return next(iter(values), Unknown(UnknownReason.NOT_MEASURED, "no model server was found"))
    return sum(known)


def _notes(one: ModelCase) -> tuple[str, ...]:
    notes = []
    if len(one.model.names) > 1:
        notes.append("served under several names: " + ", ".join(span.text for span in one.model.names[:4]))
    if len(one.model.engines) > 1:
        told = ", ".join(f"{kind} {span.text}".strip() for kind, span in one.model.engines[:4])
        notes.append(f"several engines or versions: {told}")
    if one.model.labels_used:
        notes.append("its pods are named by the labels " + ", ".join(one.model.labels_used))
    return tuple(notes)
