"""What the registry believes after a status was written: our own echo asks for nothing, others' changes still do."""

import pytest

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import APPROVE_ANNOTATION
from optiinfra.api.v1alpha1.resource_optimization import RoundStatus
from optiinfra.cluster.status import Written
from optiinfra.control.registry import Registry
from optiinfra.control.writer import Reporter
from tests.unit.control.examples import NOW, ro_body

KIND = "ResourceOptimization"


class Sink:
    def __init__(self, written: Written) -> None:
        self.written = written

    async def write(self, *_arguments, **_fence) -> Written:
        return self.written


async def written(answer: Written) -> tuple[Registry, object]:
    registry = Registry()
    key = registry.upsert(KIND, ro_body(version="10")).key
    obj = registry.get(key)
    status = obj.status.model_copy(update={"last_round": RoundStatus(id="r", at=Time.of(NOW))})
    assert await Reporter(sink=Sink(answer), registry=registry).report(key, obj, status, now=NOW)
    return registry, key


async def test_the_echo_of_our_own_write_asks_for_nothing():
    registry, key = await written(Written("11", changed=True))
    before = registry.get(key)
    assert not registry.upsert(KIND, ro_body(version="11")).needs_round
    assert registry.get(key) is before, "a version that is known is not parsed again"
    assert before.status.last_round.id == "r"


@pytest.mark.parametrize(
    "answer", [Written("12", changed=True, unseen=True), Written("12", changed=False, unseen=True)]
)
async def test_an_approval_that_came_between_is_not_taken_for_seen(answer):
    registry, _ = await written(answer)
    approved = ro_body(version="11", annotations={APPROVE_ANNOTATION: "r1"})
    assert registry.upsert(KIND, approved).approval_changed


async def test_an_approval_that_came_between_is_found_in_the_echo_at_the_latest():
    registry, _ = await written(Written("12", changed=True, unseen=True))
    echo = ro_body(version="12", annotations={APPROVE_ANNOTATION: "r1"})
    assert registry.upsert(KIND, echo).approval_changed
