"""The six steps of a round, as the workflow calls them. Each is a module of its own; here they meet the world.

Steps isolate their objects: what happens to one is its own problem, and one whose calls take long holds up nobody
(`optiinfra.control.latecomers`). Pure steps that may take long run in a worker thread, so that the Lease, probes and
scrapers go on.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from optiinfra import metrics
from optiinfra.api.conditions import Condition, ConditionStatus, ConditionType, Wanted, merge
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.action_status import ActionStatus
from optiinfra.api.v1alpha1.status_parts import MAX_REQUESTED, RecommendationStatus
from optiinfra.cluster.events import EventRecorder, EventType, ObjectReference
from optiinfra.control import action_events, track
from optiinfra.control.actuation import Actuator, published_name
from optiinfra.control.analyze import AnalysisTimes, analyze
from optiinfra.control.cluster_report import cluster_status
from optiinfra.control.collect import Collector
from optiinfra.control.early import too_early
from optiinfra.control.execute import execute, wants_execution
from optiinfra.control.insights import InsightsWorker
from optiinfra.control.keys import ObjectKey
from optiinfra.control.kill_switch import Stop
from optiinfra.control.latecomers import apart, leave
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.monitor import monitor
from optiinfra.control.plan import plan
from optiinfra.control.report import service_status
from optiinfra.control.resize import Resizer
from optiinfra.control.savings import SavingsBooks
from optiinfra.control.work import BrokenWork, ClusterWork, LeftWork, ServiceWork, Work
from optiinfra.control.writer import Reporter
from optiinfra.domain.evidence import Finding, RecommendationType
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.errors import LeadershipLost

_LOG = logging.getLogger(__name__)
_Item: TypeAlias = ServiceWork | ClusterWork | LeftWork | BrokenWork
_REPORTS_AT_ONCE = 16
_MOST_TOLD = 8
"""New recommendations of one object that one round tells as Events; the status has all of them."""

_EVENTFUL = (
    ConditionType.READY,
    ConditionType.STALLED,
    ConditionType.ACTUATION_EFFECTIVE,
    ConditionType.APPROVALS_ACCEPTED,
    ConditionType.INSIGHTS_AVAILABLE,
    ConditionType.DEGRADED,
)
_GOOD = {
    ConditionType.READY: ConditionStatus.TRUE,
    ConditionType.STALLED: ConditionStatus.FALSE,
    ConditionType.ACTUATION_EFFECTIVE: ConditionStatus.TRUE,
    ConditionType.APPROVALS_ACCEPTED: ConditionStatus.TRUE,
    ConditionType.INSIGHTS_AVAILABLE: ConditionStatus.TRUE,
    ConditionType.DEGRADED: ConditionStatus.FALSE,
}
_QUIET = (Reason.NOT_CONFIGURED, Reason.DISABLED, Reason.COLLECTING)
"""What somebody chose to be without, and what passes by itself, is no event."""


@dataclasses.dataclass(frozen=True, slots=True)
class _News:
    """A status that was written: what it said before, and what it says now."""

    key: ObjectKey
    uid: str
    old: Iterable[Condition]
    new: Iterable[Condition]
    recommended: tuple[RecommendationStatus, ...] = ()
    """Recommendations that the status before did not have."""
    actions: tuple[ActionStatus, ...] = ()
    """Actions whose newest state the status before did not have."""


@dataclasses.dataclass(slots=True)
class Steps:
    """What `optiinfra.analysis.round` runs."""

    collector: Collector
    actuator: Actuator
    resizer: Resizer
    reporter: Reporter
    events: EventRecorder
    insights: InsightsWorker
    savings: SavingsBooks
    times: AnalysisTimes
    patience: Seconds
    actuation_enabled: bool
    stop: Callable[[], Stop | None]
    """Why nothing may be done now, by the kill switch."""

    async def collect(self, work: Work, /) -> Work:
        """Put together what is known."""
        return self.collector.collect(work)

    async def analyze(self, work: Work, /) -> Work:
        """Let the domain judge, in a worker thread."""
        return await asyncio.to_thread(analyze, work, self.times)

    async def plan(self, work: Work, /) -> Work:
        """Let policy have the last word."""
        track.adopt(work)
        planned = plan(work, actuation_enabled=self.actuation_enabled, stop=self.stop())
        track.hold(planned)
        return planned

    def wants_execution(self, work: Work, /) -> bool:
        """Tell whether anything is to be done."""
        return wants_execution(work, self.actuator, self.resizer)

    async def execute(self, work: Work, /) -> Work:
        """Carry out the orders."""
        return await execute(work, self.actuator, self.resizer, then=(self.monitor, self.report))

    async def monitor(self, work: Work, /) -> Work:
        """Judge earlier actions."""
        return await monitor(work, self.actuator, patience=self.patience, then=(self.report,))

    async def report(self, work: Work, /) -> Work:
        """Bring the savings ledgers up to date, and write what changed."""
        for service in work.services:
            # What no status has yet is told with what is new: a write that failed loses no action.
            service.actions = list(service.memory.untold.values())
        await self.savings.observe(work)
        news: dict[ObjectKey, list[_News]] = {}

        async def write(item: _Item) -> None:
            try:
                news[item.key] = await self._report(item, work)
            except LeadershipLost:
                raise
            except Exception as error:  # noqa: BLE001  see below; it is logged with its traceback
                # A status that cannot be built is that object's failure; the others are still reported.
                metrics.OBJECT_FAILURES.labels("report", type(error).__name__).inc()
                _LOG.exception("report failed", extra={"object": str(item.key)})

        async def tell(key: ObjectKey) -> None:
            for one in news.get(key, ()):
                await self._tell(one)

        async def told(own: Work) -> Work:
            await tell(own.keys[0])
            return own

        items: list[_Item] = [*work.services, *work.clusters, *work.left, *work.broken]
        unwritten = await apart(items, write, at_once=_REPORTS_AT_ONCE, alone=work.alone)
        leave(work, [(item.key, task) for item, task in unwritten], step="report", then=(told,))
        self._observe_latency(work)
        # Events come after all statuses: of a thousand objects that turn at once, none waits for another one's news.
        late = {one.work.keys[0] for one in work.late}
        prompt = [key for key, told_of in news.items() if told_of and key not in late]
        leave(work, await apart(prompt, tell, at_once=_REPORTS_AT_ONCE, alone=work.alone), step="report")
        return work

    async def _report(self, item: _Item, work: Work) -> list[_News]:
        """Write the status of one object; returns what is to be told about it."""
        news: list[_News] = []
        if isinstance(item, LeftWork) or (isinstance(item, ServiceWork) and item.claim.yields):
            await self._ask(item, now=work.at)
            work.kept.add(item.key)  # that status is not ours to tell a round in
        elif isinstance(item, ServiceWork):
            status = service_status(
                item, round_id=work.id_for(item.key), now=work.at, insight=self.insights.state(item.key, item.settings)
            )
            asked = work.tickets.get(item.key, ())
            if too_early(item, status, now=work.at) and not asked:
                return news
            old, fresh = item.obj.status.conditions, _fresh(item.obj.status.recommendations, status.recommendations)
            if await self.reporter.report(item.key, item.obj, status, now=work.at, asked=asked):
                work.kept.add(item.key)
                told = tuple(item.actions)
                for action in told:
                    if item.memory.untold.get(action.id) is action:
                        del item.memory.untold[action.id]
                news.append(_News(item.key, item.obj.metadata.uid, old, status.conditions, fresh, told))
            self.insights.consider(item, status.recommendations)
            self.savings.shown(item.key, status.savings)
            _remember(item.memory, [f for t in item.targets for f in t.findings], status.recommendations)
        elif isinstance(item, ClusterWork):
            cluster = cluster_status(item, round_id=work.id_for(item.key), now=work.at)
            _remember(item.memory, item.findings, cluster.recommendations)
            self.savings.shown(item.key, cluster.savings)
            old, fresh = item.obj.status.conditions, _fresh(item.obj.status.recommendations, cluster.recommendations)
            if await self.reporter.report(
                item.key, item.obj, cluster, now=work.at, asked=work.tickets.get(item.key, ())
            ):
                work.kept.add(item.key)
                news.append(_News(item.key, item.obj.metadata.uid, old, cluster.conditions, fresh))
        else:
            news += await self._report_broken(item, work)
        return news

    async def _ask(self, item: ServiceWork | LeftWork, *, now: UnixTime) -> None:
        """Write into another operator's status, and only the line in it that is ours."""
        if item.obj.status.other_operator != item.claim.other:
            status = item.obj.status.model_copy(update={"other_operator": item.claim.other})
            await self.reporter.report(item.key, item.obj, status, now=now)

    async def _report_broken(self, item: BrokenWork, work: Work) -> list[_News]:
        """Write only the conditions: nothing else about this object can be known."""
        now, asked = work.at, work.tickets.get(item.key, ())
        metadata, stored = item.broken.metadata, item.broken.status
        message = f"{item.broken.field}: {item.broken.remedy}"
        old = [Condition.model_validate(entry) for entry in stored.get("conditions", ())]
        wanted = (
            Wanted(ConditionType.READY, ConditionStatus.FALSE, Reason.INVALID_SPEC, message),
            Wanted(ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.INVALID_SPEC, message),
            Wanted(ConditionType.STALLED, ConditionStatus.TRUE, Reason.INVALID_SPEC, message),
        )
        conditions = merge(old, wanted, generation=metadata.generation, now=now)
        if not asked and tuple(old) == conditions and stored.get("observedGeneration") == metadata.generation:
            return []
        done = (*stored.get("lastRound", {}).get("requested", ()), *asked)
        status = {
            **stored,
            "observedGeneration": metadata.generation,
            "conditions": [condition.to_wire() for condition in conditions],
            "lastRound": {"id": work.id_for(item.key), "at": str(Time.of(now)), "requested": done[-MAX_REQUESTED:]},
        }
        written = await self.reporter.send(item.key, metadata, status, previous=stored)
        if written is not None:
            work.kept.add(item.key)
        return [] if written is None else [_News(item.key, metadata.uid, old, conditions)]

    async def _tell(self, news: _News) -> None:
        """Record an Event for every condition that turned and every new recommendation, with their own words."""
        before = {condition.type: (condition.status, condition.reason) for condition in news.old}
        key = news.key
        reference = ObjectReference("optiinfra.io/v1alpha1", key.kind, key.namespace, key.name, news.uid)
        told: set[str] = set()
        for condition in news.new:
            kind = condition.type
            changed = before.get(kind) != (condition.status, condition.reason)
            if kind not in _EVENTFUL or not changed or condition.status is ConditionStatus.UNKNOWN:
                continue
            if condition.reason in _QUIET:
                continue
            good = condition.status is _GOOD[kind]
            if condition.reason in told or (good and kind not in before) or (good and kind is not ConditionType.READY):
                continue
            told.add(condition.reason)
            await self.events.record(
                reference,
                event_type=EventType.NORMAL if good else EventType.WARNING,
                reason=condition.reason,
                action="Report",
                note=condition.message,
            )
        for item in news.recommended:
            await self.events.record(
                reference,
                event_type=EventType.NORMAL,
                reason=f"{item.type}Recommended",
                action="Recommend",
                note=f"{item.id}: {item.message}",
            )
        for action in news.actions:
            await action_events.record(self.events, reference, action)

    def _observe_latency(self, work: Work) -> None:
        for service in work.services:
            for target in service.targets:
                published = self.actuator.board.get(service.key.namespace, published_name(service, target))
                if published is not None and target.signals is not None and published.decided_at >= work.at:
                    metrics.SIGNAL_TO_DECISION.observe(max(0.0, published.decided_at - target.signals.time))


def _fresh(
    old: Sequence[RecommendationStatus], new: Sequence[RecommendationStatus]
) -> tuple[RecommendationStatus, ...]:
    """Return recommendations on what none stood before: another number for the same setting is no news.

    How many replicas there should be changes all day, and `status.desired` tells it.
    """
    known = {(item.type, item.subject, item.setting) for item in old}
    fresh = (item for item in new if (item.type, item.subject, item.setting) not in known)
    return tuple(item for item in fresh if item.type is not RecommendationType.REPLICAS)[:_MOST_TOLD]


def _remember(
    memory: ObjectMemory, findings: Sequence[Finding], recommendations: Sequence[RecommendationStatus]
) -> None:
    memory.findings = tuple((str(finding.type), finding.reason) for finding in findings)
    memory.recommended = tuple(str(item.type) for item in recommendations)
