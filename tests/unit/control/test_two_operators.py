"""Two operators see one ClusterResourceOptimization: one writes its status, the other asks, and then it is quiet."""

from typing import Any

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1 import ClusterResourceOptimization
from optiinfra.cluster.status import Written
from optiinfra.control import claims
from optiinfra.control.claims import Claims
from optiinfra.control.steps import Steps
from optiinfra.control.work import Work
from optiinfra.control.writer import Reporter
from tests.unit.control.examples import NOW, cro_body
from tests.unit.control.test_collect import World
from tests.unit.control.test_promised_rounds import Nobody

INTERVAL = 30.0


class Store:
    """The one object as the API server has it, and who wrote its status."""

    def __init__(self) -> None:
        self.body, self.now, self.writers = cro_body() | {"status": {}}, float(NOW), []

    def operator(self, name: str) -> "Operator":
        return Operator(self, name)

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.body["status"]
        return status

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]


class Operator:
    """One installation: its rounds over that object."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.claims = Claims(name, clock=lambda: store.now)

    async def write(self, _resource: Any, _key: Any, status: Any, **_: Any) -> Written:
        self.store.body = self.store.body | {"status": status}
        self.store.writers.append(self.name)
        return Written("6", changed=True)

    async def round(self, **spec: Any) -> Work:
        world = World(claims=self.claims)
        work = await world.collect({**self.store.body, "spec": spec})
        steps = Steps.__new__(Steps)
        for part in ("savings", "events", "insights", "actuator"):
            setattr(steps, part, Nobody())
        steps.reporter = Reporter(sink=self, registry=world.registry)
        await steps.report(work)
        return work


async def test_one_writes_and_names_the_other_which_asks_once_and_writes_no_more():
    store = Store()
    first, second = store.operator("ns/first"), store.operator("ns/second")
    for _ in range(20):
        mine, theirs = await first.round(), await second.round()
        assert (len(mine.clusters), len(theirs.clusters), len(theirs.left)) == (1, 0, 1)
        store.now += INTERVAL
    assert store.status["operator"] == "ns/first"
    status, reason, message = store.condition("Degraded")
    assert (status, reason) == ("True", Reason.OTHER_OPERATOR)
    assert "operator ns/second sees this object too and leaves it to ns/first" in message
    assert store.writers == ["ns/first", "ns/second", "ns/first"], "a claim, a question, an answer"


async def test_who_is_left_takes_over_and_the_condition_ends():
    store = Store()
    first, second = store.operator("ns/first"), store.operator("ns/second")
    await first.round()
    for _ in range(6):
        await second.round()
        store.now += INTERVAL
    assert store.status["operator"] == "ns/second"
    assert store.condition("Degraded")[0] == "False"
    store.now += claims.FORGET
    await second.round()
    assert "otherOperator" not in store.status


async def test_a_status_from_before_is_claimed_by_the_first_that_writes_it():
    store = Store()
    known = ClusterResourceOptimization.parse(store.body)
    assert known.status.operator == ""
    await store.operator("ns/first").round()
    assert store.status["operator"] == "ns/first"
