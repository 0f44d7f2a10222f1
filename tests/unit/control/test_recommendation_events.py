"""New recommendations are told once, as Events; numbers that move and counts of replicas are not news."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.api.v1alpha1.status_parts import Severity
from optiinfra.cluster.events import EventOutcome
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.steps import Steps, _fresh, _News
from optiinfra.domain.evidence import RecommendationType
from tests.unit.control.examples import NOW, proposal, service

SIZE = RecommendationType.RESOURCES


def told(*proposals, old=()):
    return recommendations_of([("uid", one) for one in proposals], old, object_uid="u", texts={}, now=NOW)


def size(current="2000m", proposed="500m", reason="OverRequested", **parts):
    given = proposal(current, proposed, type=SIZE, setting="containers[app].requests.cpu", gpus=0.0, **parts)
    return type(given)(**{name: getattr(given, name) for name in given.__slots__} | {"reason": reason})


def test_another_number_for_the_same_setting_is_no_news():
    first = told(size())
    assert _fresh((), first) == first
    assert _fresh(first, told(size(proposed="900m"))) == ()
    assert len(_fresh(first, told(size(), size(subject="other")))) == 1


def test_the_count_of_replicas_is_no_news():
    assert _fresh((), told(proposal())) == ()


def test_one_round_tells_a_few_and_the_status_has_all():
    many = told(*(size(subject=f"c{number}") for number in range(20)))
    assert len(many) == 20
    assert len(_fresh((), many)) == 8


@dataclass
class Recorder:
    said: list[dict[str, Any]] = field(default_factory=list)

    async def record(self, regarding, **event):
        self.said.append(event | {"about": regarding.name})
        return EventOutcome.WRITTEN


async def test_an_event_names_the_id_to_approve():
    recorder = Recorder()
    steps = Steps.__new__(Steps)
    steps.events = recorder
    fresh = told(size())
    await steps._tell(_News(service().key, "u", (), (), fresh))
    (event,) = recorder.said
    assert event["reason"] == "ResourcesRecommended"
    assert event["note"].startswith(fresh[0].id)


@pytest.mark.parametrize(
    ("reason", "severity"),
    [
        ("OutOfMemory", Severity.CRITICAL),
        ("LimitTooLow", Severity.WARNING),
        ("UnderRequested", Severity.WARNING),
        ("OverRequested", Severity.INFO),
    ],
)
def test_sizes_that_do_harm_matter_whatever_they_cost(reason, severity):
    assert told(size(reason=reason))[0].severity is severity
    assert told(size(reason="OverRequested", per_month=5.0))[0].severity is Severity.WARNING
