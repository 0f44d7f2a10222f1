"""The insights worker: asks for words about recommendations, on a queue of its own, never within a round.

One question at a time per operator, oldest first, only when an object's set of recommendations changed, and within the
object's budget. What comes back is text and ranking by id; the next round shows it beside the recommendation. Without
an endpoint nothing is asked and the condition says NotConfigured; everything else works the same.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optiinfra import metrics
from optiinfra.analysis.errors import RequestRefused
from optiinfra.analysis.insights import InsightsWorkflow
from optiinfra.analysis.request import InsightRequest, candidate_of, numbers_of
from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.settings import Settings
from optiinfra.api.v1alpha1.status_parts import InsightStatus, RecommendationStatus
from optiinfra.control.keys import ObjectKey
from optiinfra.control.report import InsightState
from optiinfra.control.work import ServiceWork
from optiinfra.domain.evidence import Bottleneck, Proposal

_LOG = logging.getLogger(__name__)
_MOST_CANDIDATES = 16
_MOST_WAITING = 1000
_FIRST_PAUSE = 30.0
_LONGEST_PAUSE = 900.0


@dataclass(slots=True)
class _Question:
    digest: str
    request: InsightRequest
    ids: dict[str, str]
    """Candidate id -> recommendation id."""


@dataclass(slots=True)
class InsightsWorker:
    """Asks and remembers. `configured` tells whether a language model stands behind the workflow."""

    workflow: InsightsWorkflow
    configured: bool
    clock: Callable[[], float]
    answered: Callable[[ObjectKey], None]
    """Called when an object has new insights: its next round shows them."""
    _waiting: OrderedDict[ObjectKey, _Question] = field(default_factory=OrderedDict)
    _asked: dict[ObjectKey, str] = field(default_factory=dict)
    _states: dict[ObjectKey, InsightState] = field(default_factory=dict)
    _failures: dict[ObjectKey, int] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def state(self, key: ObjectKey, settings: Settings) -> InsightState:
        """Return what is to be said about the insights of an object now."""
        if not settings.insights_enabled:
            return InsightState(ConditionStatus.FALSE, Reason.DISABLED)
        if not self.configured:
            return InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)
        return self._states.get(key) or InsightState(ConditionStatus.UNKNOWN, Reason.NOTHING_TO_EXPLAIN)

    def consider(self, service: ServiceWork, recommendations: Sequence[RecommendationStatus]) -> None:
        """Put a question in line when the recommendations are others than those asked about."""
        if not self.configured or not service.settings.insights_enabled or not recommendations:
            return
        digest = hashlib.sha256("".join(sorted(item.id for item in recommendations)).encode()).hexdigest()
        if self._asked.get(service.key) == digest or len(self._waiting) >= _MOST_WAITING:
            return
        try:
            question = _question(service, recommendations, digest)
        except RequestRefused as error:
            _LOG.warning("insight not asked", extra={"object": str(service.key), "error": str(error)})
            return
        self._asked[service.key] = digest
        self._waiting[service.key] = question
        self._wake.set()

    def forget(self, key: ObjectKey) -> None:
        """Drop what is known about an object that is gone."""
        for table in (self._waiting, self._asked, self._states, self._failures):
            table.pop(key, None)

    async def run(self) -> None:
        """Ask for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            while self._waiting:
                key, question = self._waiting.popitem(last=False)
                await self._ask(key, question)
            self._wake.clear()

    async def _ask(self, key: ObjectKey, question: _Question) -> None:
        report = await self.workflow.run(question.request)
        metrics.INSIGHTS.labels(report.outcome).inc()
        metrics.LLM_TOKENS.labels("in").inc(report.tokens_in)
        metrics.LLM_TOKENS.labels("out").inc(report.tokens_out)
        if key not in self._asked:
            return  # the object went while the model thought
        texts: dict[str, InsightStatus] = {}
        if report.available:
            self._failures.pop(key, None)
            explanations = {item.id: item.text for item in report.insight.explanations}
            for rank, candidate in enumerate(report.insight.ranking, start=1):
                if candidate in question.ids and explanations.get(candidate):
                    texts[question.ids[candidate]] = InsightStatus(
                        text=explanations[candidate],
                        rank=rank,
                        model=report.insight.provenance.model,
                        at=Time.of(self.clock()),
                    )
        else:
            self._retry_later(key, question)
        self._states[key] = InsightState(
            ConditionStatus.TRUE if report.available else ConditionStatus.FALSE,
            _reason(report.reason),
            report.message,
            texts,
        )
        self.answered(key)

    def _retry_later(self, key: ObjectKey, question: _Question) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (failures - 1))

        def again() -> None:
            # The question may have been replaced by a newer one, or its object may be gone.
            if self._asked.get(key) == question.digest and key not in self._waiting:
                self._waiting[key] = question
                self._wake.set()

        asyncio.get_running_loop().call_later(pause, again)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.ANSWER_INVALID


def _question(service: ServiceWork, recommendations: Sequence[RecommendationStatus], digest: str) -> _Question:
    proposals = [proposal for target in service.targets for proposal in target.proposals]
    by_identity = {(p.type, p.subject, p.setting, p.current, p.proposed): p for p in proposals}
    ids: dict[str, str] = {}
    chosen: list[Proposal] = []
    for item in recommendations[:_MOST_CANDIDATES]:
        proposal = by_identity.get((item.type, item.subject, item.setting, item.current, item.proposed))
        if proposal is not None:
            chosen.append(proposal)
            ids[f"r{len(chosen)}"] = item.id
    diagnosis = next((target.diagnosis for target in service.targets if target.diagnosis is not None), None)
    request = InsightRequest(
        object_id=service.obj.metadata.uid,
        candidates=tuple(candidate_of(proposal, position=index) for index, proposal in enumerate(chosen, start=1)),
        signals=numbers_of(diagnosis.evidence) if diagnosis is not None else (),
        bottleneck=diagnosis.bottleneck if diagnosis is not None else Bottleneck.UNKNOWN,
        objectives=service.settings.objectives,
        daily_token_budget=service.settings.daily_token_budget,
    )
    return _Question(digest, request, ids)
