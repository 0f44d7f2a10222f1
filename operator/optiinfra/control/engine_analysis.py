"""What limits one target, and what would help: the round's calls on the domain that are about engines.

A verdict settles over rounds, and only rounds that saw a new page count: the same pages judged again are no second
witness. What the engine's steps cost is learned here too, because advice on batch size rests on it.
"""

from collections.abc import Mapping

from optiinfra.control.surroundings import gpu_of
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import bottleneck, kv_cache, model_table, tuning
from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.pace import key_of
from optiinfra.domain.readings import EngineReading
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verdicts import settle
from optiinfra.domain.workload import NodeFacts


def diagnose(
    service: ServiceWork, target: TargetWork, newest: EngineReading | None, *, idle_span: Seconds, now: UnixTime
) -> Diagnosis:
    """Judge the window that `target.signals` sums up, and let the verdict settle."""
    assert target.signals is not None
    memory = target.memory
    memory.pace.observe(target.signals, key=key_of(target.settings))
    found = bottleneck.diagnose(
        target.signals,
        target.settings,
        service.settings.objectives,
        surroundings=target.surroundings,
        quiet=memory.history.quiet_span(now=now),
        idle_span=idle_span,
    )
    page = memory.judged_page if newest is None else newest.time
    # Pages that stop coming are a verdict too, and no new page will ever tell it.
    if memory.verdict is None or page > memory.judged_page or found.bottleneck is Bottleneck.UNKNOWN:
        memory.verdict, memory.judged_page = settle(memory.verdict, found, now=now), page
    return memory.verdict.diagnosis


def advise(service: ServiceWork, target: TargetWork, nodes: Mapping[str, NodeFacts]) -> list[Advice]:
    """Return what the engine's settings could be changed to, and what was considered and refused."""
    spec, given, advice = service.obj.spec, _advice_input(service, target, nodes), list[Advice]()
    if spec.kv_cache.enabled:
        advice += (*kv_cache.advise(given), *service.notes)
    if spec.tuning.enabled:
        advice += tuning.advise(given)
    return advice


def _advice_input(service: ServiceWork, target: TargetWork, nodes: Mapping[str, NodeFacts]) -> AdviceInput:
    assert target.facts is not None
    assert target.signals is not None
    assert target.diagnosis is not None
    assert target.utilization is not None
    pages = (page for readings in target.facts.pages.values() for page in readings[-1:])
    names = (service.obj.spec.model.family, target.settings.model, *(page.model for page in pages))
    return AdviceInput(
        target.signals,
        target.settings,
        target.diagnosis,
        service.settings.objectives,
        gpu=gpu_of(target.facts, target.utilization, nodes),
        model=model_table.facts_of(ModelFacts(), names),
        pace=target.memory.pace.fit(),
        surroundings=target.surroundings,
    )
