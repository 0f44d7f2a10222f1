"""The report made: a history in, a report and its patches out. Pure; playing the scaler is handed out to the caller.

`prepare` looks at every model and says what is to be played, `compose` takes what came of it. In between whoever calls
may use processes: playing is most of the work, and its cases do not depend on each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain.evidence import Proposal
from optiinfra.domain.gpu_models import recognise
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.accounts import Held, accounts_of
from optiinfra.domain.report.around import idle_drafts, node_drafts, questions, unused_drafts
from optiinfra.domain.report.cases import ModelCase, cases_of
from optiinfra.domain.report.containers import size
from optiinfra.domain.report.days import Days
from optiinfra.domain.report.drafts import Draft, of_proposal
from optiinfra.domain.report.ending import ended
from optiinfra.domain.report.figures import fleet_figures, model_report
from optiinfra.domain.report.history import FleetHistory
from optiinfra.domain.report.idle_gpus import GpuDoing, doing
from optiinfra.domain.report.limits import advise
from optiinfra.domain.report.money import Ledger
from optiinfra.domain.report.nodes import emptied
from optiinfra.domain.report.options import Options
from optiinfra.domain.report.patches import (
    engine_patch,
    scaler_patch,
    scaling_patch,
    silent_patch,
)
from optiinfra.domain.report.pricing import Pricing, mean_price, price
from optiinfra.domain.report.proposals import (
    alternative,
    hpa_draft,
    replay_of,
    scaler_draft,
    silent_draft,
    tighter,
    worse_words,
)
from optiinfra.domain.report.ranking import booked
from optiinfra.domain.report.report import (
    VERSION,
    Gap,
    ModelReport,
    Patch,
    Question,
    Replay,
    Report,
    Worse,
)
from optiinfra.domain.report.scaling import Case, Played
from optiinfra.domain.units import UnixTime


def _method(replayed: str) -> tuple[str, ...]:
    """Say in three sentences what was done."""
    return (
        "Cost is every GPU-hour that was there, held or not, at the prices named; a million tokens cost all of it.",
        (
            f"Each model's recorded load ({replayed}) was played through OptiInfra's scaler and through plain "
            "autoscalers in a queueing model, beside what ran; idle GPUs, nodes and container requests are judged by "
            "the operator's own rules."
        ),
        (
            "Savings count each GPU-hour once, none that is reserved, and are money only when the freed GPUs are given "
            "back; where less capacity would have made work late, that stands beside the saving."
        ),
    )


NOT_PLAYED: Final = Unknown(UnknownReason.NOT_MEASURED, "it was not played")


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything that is known before the scaler is played."""

    history: FleetHistory
    options: Options
    models: tuple[ModelCase, ...]
    days: Days
    """Which are replayed."""
    doings: tuple[GpuDoing, ...]
    pricing: Pricing
    held: Held

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return what is to be played."""
        return tuple(one.case for one in self.models if not isinstance(one.case, Unknown))


@dataclass(frozen=True, slots=True)
class Told:
    """What only the caller knows."""

    made: UnixTime
    server: str
    samples: int = 0
    simulated: bool = False
    queries: Mapping[str, str] = field(default_factory=dict)
    """PromQL of a model's work per second, by namespace/workload, for autoscalers."""
    notes: tuple[str, ...] = ()
    first: UnixTime | None = None
    """From when on was asked, where nothing that came back tells it."""


@dataclass(frozen=True, slots=True)
class Made:
    """The report, and its patches."""

    report: Report
    patches: tuple[Patch, ...]


def prepare(history: FleetHistory, options: Options) -> Prepared:
    """Look at the whole fleet."""
    pricing = price(history, options.prices)
    models, days = cases_of(history, options)
    return Prepared(
        history=history,
        options=options,
        models=models,
        days=days,
        doings=doing(history.gpus, step_s=history.step_s),
        pricing=pricing,
        held=accounts_of(history, pricing),
    )


def compose(prepared: Prepared, played: Sequence[Played], told: Told) -> Made:
    """Judge, price, rank and word everything."""
    history, options, held = prepared.history, prepared.options, prepared.held
    ledger = Ledger(held.all, step_s=history.step_s, reserved=prepared.pricing.reserved)
    outcomes = {one.key: one for one in played}
    by_key = {one.model.key: one for one in prepared.models}
    drafts: list[Draft] = []
    reports: list[ModelReport] = []
    worse: list[Worse] = []
    proposals = _sizes(prepared)
    for one in prepared.models:
        key = one.model.key
        accounts = held.by_holder.get(key, ())
        outcome = outcomes.get(key, NOT_PLAYED)
        replay = replay_of(one, outcome, _price_of(prepared, one))
        advised = advise(
            one.verdicts,
            settings=one.settings,
            objectives=options.objectives,
            gpu=recognise(one.gpus[0].model if one.gpus else ""),
            pace=one.pace,
        )
        own = _of_model(prepared, one, replay, outcome, told)
        drafts += own
        drafts += _of_engine(one, advised.proposals)
        drafts += [] if _silent(own) else _of_containers(one, proposals.get(key, ()), history)
        found = _worse(key, replay)
        worse += [] if found is None else [found]
        reports.append(
            model_report(
                one,
                history,
                accounts=accounts,
                ledger=ledger,
                doings=prepared.doings,
                replay=replay,
                played=outcome,
                limits=advised.limits,
                refused=advised.refused,
                currency=options.prices.currency,
                notes=() if own or not (note := tighter(one, replay)) else (note,),
            )
        )
    drafts += idle_drafts(prepared.doings, held, by_key, history=history)
    drafts += unused_drafts(prepared.doings, held, by_key, history=history)
    now = UnixTime(float(history.times[-1])) if len(history.times) else told.made
    kinds = {name: node.gpu for name, node in prepared.pricing.nodes.items()}
    going = emptied(history.nodes, kinds, start_up_s=options.start_up_s, now=now)
    drafts += node_drafts(going, held, prepared.pricing, history=history)
    opportunities, patches, total = booked(drafts, ledger, hours=history.hours)
    report = Report(
        version=VERSION,
        made=told.made,
        server=told.server,
        first=_first(history, told),
        last=now,
        hours=history.hours,
        step_s=history.step_s,
        currency=options.prices.currency,
        simulated=told.simulated,
        total=total,
        fleet=fleet_figures(history, held, prepared.doings, ledger, options.prices.currency),
        prices=prepared.pricing.kinds(),
        opportunities=opportunities,
        worse=tuple(sorted(worse, key=lambda one: (-one.extra_gpu_hours, one.subject))),
        models=tuple(sorted(reports, key=_dearest)),
        gaps=_gaps(history),
        questions=tuple(Question(one.question, one.promql, one.link, one.samples, one.series) for one in history.asked),
        samples=told.samples,
        replayed=prepared.days.words,
        method=_method(prepared.days.words),
        notes=told.notes,
    )
    return Made(report, patches)


def _sizes(prepared: Prepared) -> Mapping[str, Sequence[Proposal]]:
    """Propose requests for the containers of each model, by its key."""
    sized = size(
        prepared.history.containers,
        {one.model.key: one.model for one in prepared.models},
        {one.model.key: one.settings for one in prepared.models},
        prepared.history.times,
    )
    return {one.key: one.proposals for one in sized}


def _gaps(history: FleetHistory) -> tuple[Gap, ...]:
    """Say what is not known, and how to get it."""
    lacks = (Gap(str(one.lack), one.what, one.why, one.remedy, one.where) for one in history.missing)
    return (*ended(history), *lacks)


def _first(history: FleetHistory, told: Told) -> UnixTime:
    """Return the beginning of the window."""
    if len(history.times):
        return UnixTime(float(history.times[0]) - history.step_s)
    return told.made if told.first is None else told.first


def _of_model(
    prepared: Prepared, one: ModelCase, replay: Replay | Unknown, outcome: Played | Unknown, told: Told
) -> list[Draft]:
    """Propose about a model's replicas; a silent model is only proposed to be taken away."""
    history, objectives = prepared.history, prepared.options.objectives
    accounts = prepared.held.by_holder.get(one.model.key, ())
    silent = silent_draft(one, history.times, step_s=history.step_s, accounts=accounts)
    if silent is not None:
        return [replace(silent, patch=silent_patch(one))]
    found = []
    scaler = scaler_draft(one, replay, outcome, accounts)
    if scaler is not None and not isinstance(replay, Unknown):
        text = scaling_patch(one, replay, late_share=objectives.late_share, queue_delay_s=float(objectives.queue_delay))
        found.append(replace(scaler, patch=text))
    plain = hpa_draft(one, replay, accounts)
    if plain is not None and scaler is not None:
        plain = alternative(plain, scaler)
    if plain is not None and not isinstance(replay, Unknown):
        query = told.queries.get(one.model.key, "")
        text = scaler_patch(one, replay, target=float(plain.proposed), query=query, server=told.server)
        found.append(replace(plain, patch=text))
    return found


def _of_engine(one: ModelCase, proposals: Sequence[Proposal]) -> list[Draft]:
    return [
        of_proposal(
            proposal,
            subject=one.model.key,
            title=f"{one.model.workload}: {proposal.setting} {proposal.current} -> {proposal.proposed}",
            sources=tuple(dict.fromkeys(one.model.sources.values())),
            patch=engine_patch(one, setting=proposal.setting, value=proposal.proposed),
        )
        for proposal in proposals
    ]


def _of_containers(one: ModelCase, proposals: Sequence[Proposal], history: FleetHistory) -> list[Draft]:
    return [
        of_proposal(
            proposal,
            subject=one.model.key,
            title=f"{one.model.workload}: {proposal.setting} {proposal.current or 'none'} -> {proposal.proposed}",
            sources=questions(history, "containers.", "state.container"),
        )
        for proposal in proposals
    ]


def _silent(drafts: Sequence[Draft]) -> bool:
    """Tell whether a model is proposed to be taken away: then nothing else of it is worth changing."""
    return any(one.reason == "NoRequests" for one in drafts)


def _price_of(prepared: Prepared, one: ModelCase) -> Value:
    """Return the mean price of the model's GPU-hours."""
    accounts = prepared.held.by_holder.get(one.model.key, ())
    nodes = [prepared.pricing.nodes[gpu.node] for gpu in one.gpus if gpu.node in prepared.pricing.nodes]
    if len(accounts) == 1:
        return accounts[0].gpu_hour
    return mean_price(nodes)


def _worse(key: str, replay: Replay | Unknown) -> Worse | None:
    if isinstance(replay, Unknown):
        return None
    said = worse_words(replay, replay.ours)
    if not said:
        return None
    before, after = replay.ran, replay.ours
    extra = 0.0
    if not isinstance(before.gpu_hours, Unknown) and not isinstance(after.gpu_hours, Unknown):
        extra = max(0.0, after.gpu_hours - before.gpu_hours)
    return Worse(
        subject=key,
        message=" ".join(said),
        late_share_before=before.late_share,
        late_share_after=after.late_share,
        incidents_before=before.incidents,
        incidents_after=after.incidents,
        extra_gpu_hours=extra,
    )


def _dearest(one: ModelReport) -> tuple[float, float, str]:
    cost, hours = one.cost.value, one.gpu_hours.value
    return (
        0.0 if isinstance(cost, Unknown) else -cost,
        0.0 if isinstance(hours, Unknown) else -hours,
        one.key,
    )
