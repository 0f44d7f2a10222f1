"""What is proposed for one model from its replay: this project's scaler, a plain HPA, or to take the model away.

A difference of less than a tenth of what a model holds is not worth somebody's time and within what the replay gets
wrong, so that it is no proposal. Freed GPUs are told over time: where what ran was more than what would have run, and
scaled so that the times in which more would have run are paid for.

What a scaler would free of a service that is run well is no promise to be made to somebody's finance department: only
what lies above a careful need, too, is counted (`scaling.careful`). The rest stands in the replay's own figures.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.cases import ModelCase, gpus_each
from optiinfra.domain.report.drafts import Draft
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.money import Account
from optiinfra.domain.report.report import Fact, Outcome, Replay
from optiinfra.domain.report.scaling import CAREFUL_USE, Lateness, Played, measured_lateness
from optiinfra.domain.units import Ratio

NOT_PLAYED: Final = Unknown(UnknownReason.NOT_MEASURED, "not counted for an HPA")
LEAST_SHARE: Final = 0.10
LEAST_GPUS: Final = 0.25
"""Mean GPUs freed below which nothing is proposed."""
SILENT_S: Final = 86_400.0
"""Without a request for so long, and to the end, a model is proposed to be taken away."""
SLACK: Final = 0.001
"""Difference in the late share that is none."""
_WORK: Final = ("work", "prompt_tokens", "generation_tokens", "waiting", "requests", "queue_mean")


def replay_of(one: ModelCase, played: Played | Unknown, price: Value) -> Replay | Unknown:
    """Put what ran beside what would have run."""
    if isinstance(one.case, Unknown):
        return one.case
    if isinstance(played, Unknown):
        return played
    assert not isinstance(one.capacity, Unknown)
    case, capacity = one.case, one.capacity
    each = gpus_each(one.model)
    known = case.known
    hours = case.step_s / 3600.0
    lateness = measured_lateness(one.model, case)
    load = case.load[known]
    ran = _outcome("as it ran", float(case.ran[known].sum()) * hours, each, price, lateness)
    ours = _outcome("OptiInfra", float(np.nansum(played.ours)) * hours, each, price, played.lateness)
    hpa: Outcome | Unknown
    target: Value
    if isinstance(played.hpa, Unknown):
        hpa, target = played.hpa, played.hpa
    else:
        found = played.hpa.outcome
        # The HPA is played on the newest of the days: told for the same time as the others.
        scale = float(known.sum()) * hours / max(played.hpa_hours, 1e-9)
        late = Lateness(found.late10, round(found.incidents * scale), 0.0)
        spent = found.cost * played.load_hours * scale
        hpa = _outcome(f"plain HPA at {played.hpa.target:.0%}", spent, each, price, late, actions=False)
        target = played.hpa.target
    return Replay(
        hours=float(known.sum()) * hours,
        capacity=capacity.work,
        capacity_basis=capacity.basis,
        confidence=capacity.confidence,
        start_up_s=case.start_up_s,
        minimum=case.minimum,
        maximum=case.maximum,
        ran=ran,
        ours=ours,
        hpa=hpa,
        hpa_target=target,
        load_mean=float(load.mean()),
        load_peak=float(load.max()),
        sources=sources_of(one, *_WORK, "available", "serving"),
    )


def _outcome(
    name: str, replica_hours: float, each: Value, price: Value, late: Lateness | Unknown, *, actions: bool = True
) -> Outcome:
    gpu_hours: Value = each if isinstance(each, Unknown) else replica_hours * each
    cost: Value = (
        gpu_hours if isinstance(gpu_hours, Unknown) else price if isinstance(price, Unknown) else gpu_hours * price
    )
    if isinstance(late, Unknown):
        return Outcome(name, replica_hours, gpu_hours, cost, late, late, late)
    return Outcome(
        name,
        replica_hours,
        gpu_hours,
        cost,
        late.late_share,
        float(late.incidents),
        late.actions_per_day if actions else NOT_PLAYED,
    )


def freed_by(
    one: ModelCase, wanted: FloatArray, accounts: tuple[Account, ...]
) -> tuple[tuple[Account, FloatArray], ...]:
    """Return what running `wanted` replicas, (points,), NaN where not replayed, would have freed of its accounts.

    Counted is only what lies above the careful need, too: what a rule would free beyond it is no promise. The part of
    the window that was not replayed is taken to exceed its careful need as the replayed part does.
    """
    ran, needed = one.model.replicas, one.needed
    if isinstance(one.case, Unknown) or isinstance(ran, Unknown) or isinstance(needed, Unknown):
        return ()
    played = np.maximum(wanted, needed)
    both = np.isfinite(played)
    if not both.any():
        return ()
    factor = float(played[both].sum() / max(float(needed[both].sum()), 1e-9))
    whole = np.where(one.case.days.counted, played, needed * factor)
    known = np.isfinite(ran) & np.isfinite(whole)
    less = np.where(known, np.maximum(ran - whole, 0.0), 0.0)
    net, gross = float((ran[known] - whole[known]).sum()), float(less.sum())
    if net < LEAST_SHARE * float(ran[known].sum()) or gross <= 0.0:
        return ()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(known & (ran > 0.0), less / ran, 0.0) * (net / gross)
    return tuple((account, account.held * share) for account in accounts)


def scaler_draft(
    one: ModelCase, replay: Replay | Unknown, played: Played | Unknown, accounts: tuple[Account, ...]
) -> Draft | None:
    """Propose this project's scaler, where it would have run noticeably less."""
    if isinstance(replay, Unknown) or isinstance(played, Unknown):
        return None
    before, after = replay.ran.replica_hours, replay.ours.replica_hours
    claims = freed_by(one, played.ours, accounts)
    if not _worth(one, before, after) or (accounts and not claims):
        return None
    saved = 1.0 - after / before
    mean_ran, mean_ours = before / replay.hours, after / replay.hours
    return Draft(
        type=RecommendationType.REPLICAS,
        reason="FewerReplicas",
        subject=one.model.key,
        title=f"{one.model.workload}: {mean_ours:.1f} replicas instead of {mean_ran:.1f} on average",
        message=(
            f"On the {replay.hours / 24.0:.1f} days replayed it ran {mean_ran:.2f} replicas on average for a load that "
            f"kept {replay.load_mean:.2f} busy (at most {replay.load_peak:.1f}). OptiInfra's scaler would have run "
            f"{mean_ours:.2f}, {saved:.0%} less, {_late_words(replay)}. Counted is what lies above both that and "
            f"{CAREFUL_USE:.0%} use. What a replica serves is {_basis(replay)}."
        ),
        setting="replicas",
        current=f"{mean_ran:.1f}",
        proposed=f"{mean_ours:.1f}",
        confidence=Ratio(round(replay.confidence * (0.9 if one.hours else 0.5), 2)),
        claims=claims,
        evidence=_evidence(replay, replay.ours),
        sources=sources_of(one, *_WORK, "available", "serving", "gpus_held"),
        worse=worse_words(replay, replay.ours),
        risk=(
            "The replay is a fluid model on means of steps: bursts shorter than a step, batches and KV caches are not "
            "in it. Freed GPUs are money only when their nodes are given back."
        ),
        verification="Late work and waiting requests over the next busy day, beside GPUs held.",
        undo="Take the ScaledObject away and set the replicas of before.",
    )


def hpa_draft(one: ModelCase, replay: Replay | Unknown, accounts: tuple[Account, ...]) -> Draft | None:
    """Propose the target that a plain HPA should have had, for who keeps a scaler of their own."""
    if isinstance(replay, Unknown) or isinstance(replay.hpa, Unknown) or isinstance(replay.hpa_target, Unknown):
        return None
    if isinstance(one.case, Unknown) or replay.capacity_basis == "AtLeast":
        return None
    before, after = replay.ran.replica_hours, replay.hpa.replica_hours
    if not _worth(one, before, after):
        return None
    target = float(f"{replay.hpa_target * replay.capacity:.3g}")
    each = np.where(np.isfinite(one.case.ran), one.case.ran * (after / before), np.nan)
    claims = freed_by(one, each, accounts)
    if accounts and not claims:
        return None
    return Draft(
        type=RecommendationType.HPA_TARGET,
        reason="CheapestThatHeld",
        subject=one.model.key,
        title=f"{one.model.workload}: a plain HPA at {replay.hpa_target:.0%} of what a replica serves",
        message=(
            f"An HPA or KEDA on the rate of work (prompt tokens + 4 x generated ones) at {target:g} a second and "
            f"replica would have run {after / replay.hours:.2f} replicas on average, where {before / replay.hours:.2f} "
            f"ran. It is the cheapest of nine targets that held the objective on this load, which is known only "
            f"afterwards."
        ),
        setting="averageValue of work/s",
        current=_targets(one),
        proposed=f"{target:g}",
        confidence=Ratio(round(0.8 * replay.confidence, 2)),
        claims=claims,
        evidence=_evidence(replay, replay.hpa),
        sources=sources_of(one, *_WORK, "available", "serving", "scaler"),
        worse=worse_words(replay, replay.hpa),
        risk="A target that held on these days need not hold on others; the model knows no batches and caches.",
        verification="Waiting requests and time to first token over the next busy hours.",
        undo="Set the metric and the target of before.",
    )


def alternative(plain: Draft, scaler: Draft) -> Draft:
    """Return a plain autoscaler as what it is beside this project's scaler: one or the other, never the sum of both."""
    freed = {account.key: hours for account, hours in scaler.claims}
    claims = tuple(
        (account, np.minimum(hours, freed.get(account.key, np.zeros(len(hours))))) for account, hours in plain.claims
    )
    return replace(plain, title=f"{plain.title}, instead", claims=claims)


def silent_draft(one: ModelCase, times: FloatArray, *, step_s: float, accounts: tuple[Account, ...]) -> Draft | None:
    """Propose to take away a model that nobody asks anything."""
    work, ran = one.model.load.work, one.model.replicas
    if isinstance(work, Unknown) or isinstance(ran, Unknown) or not accounts:
        return None
    with np.errstate(invalid="ignore"):
        active = np.flatnonzero(np.isfinite(work) & (work > 1e-9))
    first = int(active[-1]) + 1 if active.size else 0
    tail = slice(first, len(times))
    quiet = np.isfinite(work[tail])
    running = bool(np.isfinite(ran[-3:]).any()) and float(np.nanmax(ran[-3:])) > 0.0
    seconds = (len(times) - first) * step_s
    if seconds < SILENT_S or quiet.mean() < 0.5 or not running:
        return None
    claims = []
    for account in accounts:
        freed = np.zeros(len(times))
        freed[tail] = account.held[tail]
        claims.append((account, freed))
    if not any(float(freed.sum()) > 0.0 for _, freed in claims):
        return None
    since = (
        f"the whole window of {seconds / 86_400.0:.1f} days" if not active.size else f"{seconds / 86_400.0:.1f} days"
    )
    return Draft(
        type=RecommendationType.IDLE_GPU,
        reason="NoRequests",
        subject=one.model.key,
        title=f"{one.model.workload}: no request for {seconds / 86_400.0:.1f} days",
        message=f"It held its GPUs and served no token for {since}. Remove it, or let it start on demand.",
        setting="replicas",
        current=f"{float(np.nanmax(ran[-3:])):g}",
        proposed="0",
        confidence=Ratio(0.95 if not active.size else 0.85),
        claims=tuple(claims),
        evidence=(
            Fact("seconds_without_work", seconds, "seconds", "sum", "derived"),
            Fact("share_of_it_measured", float(quiet.mean()), "ratio", "mean", "derived"),
        ),
        sources=sources_of(one, "work", "prompt_tokens", "generation_tokens", "requests", "gpus_held"),
        risk="A model that is called once a month, or that stands by for another, looks like this too: ask its owner.",
        verification="Nobody asks for it; its GPUs are free.",
        undo="Set the replicas of before; it starts as long as it always does.",
    )


def worse_words(replay: Replay, after: Outcome) -> tuple[str, ...]:
    """Say what would have got worse against what ran, in sentences; empty where nothing known would."""
    said = []
    before = replay.ran
    late, then = after.late_share, before.late_share
    if not isinstance(late, Unknown):
        if isinstance(then, Unknown):
            said.append(f"{late:.2%} of the work would have been late; what was late as it ran is not measured.")
        elif late > then + SLACK:
            said.append(f"{late:.2%} of the work would have waited too long, where {then:.2%} did.")
    if (
        not isinstance(after.incidents, Unknown)
        and not isinstance(before.incidents, Unknown)
        and after.incidents > before.incidents
    ):
        windows = "window" if round(after.incidents) == 1 else "windows"
        said.append(
            f"{after.incidents:.0f} five-minute {windows} with more than a tenth of the work late, where "
            f"{before.incidents:.0f} were."
        )
    if after.replica_hours > before.replica_hours * 1.001:
        more = after.replica_hours - before.replica_hours
        said.append(f"{more:.1f} replica-hours more would have run ({more / max(before.replica_hours, 1e-9):.0%}).")
    return tuple(said)


def tighter(one: ModelCase, replay: Replay | Unknown) -> str:
    """Say what the scaler would free of a service that is run well; empty where that is nothing to speak of."""
    if isinstance(replay, Unknown) or not _worth(one, replay.ran.replica_hours, replay.ours.replica_hours):
        return ""
    less = 1.0 - replay.ours.replica_hours / replay.ran.replica_hours
    return (
        f"It is run well by the usual measure ({CAREFUL_USE:.0%} use). OptiInfra's scaler would have run {less:.0%} "
        f"less, {_late_words(replay)}; that is not counted as a saving."
    )


def sources_of(one: ModelCase, *names: str) -> tuple[str, ...]:
    """Return the questions behind fields of a model, without repeats."""
    found = [one.model.sources[name] for name in names if name in one.model.sources]
    return tuple(dict.fromkeys(found))


def _worth(one: ModelCase, before: float, after: float) -> bool:
    if isinstance(one.case, Unknown) or before <= 0.0:
        return False
    each = gpus_each(one.model)
    hours = float(one.case.known.sum()) * one.case.step_s / 3600.0
    freed = (before - after) / max(hours, 1e-9) * (1.0 if isinstance(each, Unknown) else each)
    return before - after >= LEAST_SHARE * before and freed >= LEAST_GPUS


def _late_words(replay: Replay) -> str:
    late = replay.ours.late_share
    assert not isinstance(late, Unknown)
    then = replay.ran.late_share
    ran = "not measured" if isinstance(then, Unknown) else f"{then:.2%}"
    return f"with {late:.2%} of the work late by the model (as it ran: {ran})"


def _basis(replay: Replay) -> str:
    words = {
        "Measured": "measured while requests waited",
        "StepTimes": "told by how the time between tokens grows with the batch",
        "Occupancy": "estimated from the share of batch and KV cache in use",
    }
    return words.get(replay.capacity_basis, "at least the most that was seen, so that the saving is a lower bound")


def _evidence(replay: Replay, after: Outcome) -> tuple[Fact, ...]:
    return (
        Fact("replica_hours_ran", replay.ran.replica_hours, "replica-hours", "sum", "kubernetes"),
        Fact("replica_hours_replayed", after.replica_hours, "replica-hours", "sum", "derived"),
        Fact("late_share_ran", replay.ran.late_share, "ratio", "mean", "engine"),
        Fact("late_share_replayed", after.late_share, "ratio", "mean", "derived"),
        Fact("incidents_ran", replay.ran.incidents, "", "sum", "engine"),
        Fact("incidents_replayed", after.incidents, "", "sum", "derived"),
        Fact("replica_capacity", replay.capacity, "work/s", replay.capacity_basis, "derived"),
        Fact("load_mean", replay.load_mean, "replicas", "mean", "derived"),
        Fact("load_peak", replay.load_peak, "replicas", "max", "derived"),
        Fact("start_up", replay.start_up_s, "seconds", "assumed", "given"),
    )


def _targets(one: ModelCase) -> str:
    scaler = one.model.scaler
    if isinstance(scaler, Unknown):
        return "no autoscaler" if scaler.reason == "NotConfigured" else "not known"
    if not scaler.targets:
        return f"HPA {scaler.name}"
    return ", ".join(f"{metric} {kind} {value:g}" for metric, kind, value in scaler.targets[:3])
