"""The gate remembers good and bad answers for a while, in bounds, and never by the token itself."""

import asyncio
import gc

import pytest
from fastapi import HTTPException
from prometheus_client import generate_latest

from optiinfra.cluster.errors import Unavailable
from optiinfra.metrics import REGISTRY
from optiinfra.web.agents import AgentTable, Heartbeat, Registration
from optiinfra.web.authentication import Gate
from optiinfra.web.ports import Caller
from tests.unit.web.outside import ADA, Reviewer


async def ask(gate: Gate, **changes: str) -> bool:
    return await gate.permit(ADA, **({"verb": "get", "resource": "resourceoptimizations", "namespace": "a"} | changes))


async def test_a_token_is_reviewed_once_a_while_good_or_bad():
    reviewer = Reviewer()
    gate = Gate(reviewer)
    for _ in range(5):
        assert await gate.caller("good") == ADA
        assert await gate.caller("bad") is None
    assert reviewer.authenticated == ["good", "bad"]


async def test_a_verdict_belongs_to_caller_verb_and_object():
    reviewer = Reviewer(refused={("delete", "resourceoptimizations")})
    gate = Gate(reviewer)
    for _ in range(3):
        assert await ask(gate)
        assert await ask(gate, namespace="b")
        assert await ask(gate, name="x")
        assert not await ask(gate, verb="delete")
        assert await ask(gate, subresource="run")
        assert await gate.permit(
            Caller("bob", ("ml",), {}), verb="get", resource="resourceoptimizations", namespace="a"
        )
        assert await gate.permit(Caller("ada", (), {}), verb="get", resource="resourceoptimizations", namespace="a")
    assert len(reviewer.authorized) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Caller("ada", ("a", "b"), {}), Caller("ada", ("a",), {})),
        (Caller("ada", (), {"scopes": ("x",)}), Caller("ada", (), {})),
        (Caller("ada", (), {"scopes": ("x",)}), Caller("ada", (), {"scopes": ("y",)})),
        (Caller("ada", ("|", "get"), {}), Caller("ada", (), {})),
    ],
)
async def test_no_two_callers_share_a_verdict(one, other):
    reviewer = Reviewer()
    gate = Gate(reviewer)
    for caller in (one, other):
        await gate.permit(caller, verb="get", resource="agents")
    assert [asked["caller"] for asked in reviewer.authorized] == [one, other]


async def test_parts_of_a_question_never_run_into_each_other():
    reviewer = Reviewer()
    gate = Gate(reviewer)
    await gate.permit(Caller("ada", ("x", "|", "get"), {}), verb="list", resource="agents")
    await gate.permit(Caller("ada", ("x",), {}), verb="get", resource="|", namespace="list", name="agents")
    await ask(gate, namespace="a", name="b")
    await ask(gate, namespace="", name="ab")
    assert len(reviewer.authorized) == 4


async def test_what_is_remembered_is_bounded():
    gate = Gate(Reviewer())
    for number in range(3000):
        await gate.caller(f"guess-{number}")
        await ask(gate, namespace=f"n{number}")
    assert len(gate._callers) <= 2048
    assert len(gate._verdicts) <= 2048


async def test_a_token_is_not_kept():
    gate = Gate(Reviewer())
    await gate.caller("a-token-that-must-not-stay")
    kept = repr((gate._callers, gate._verdicts))
    gc.collect()
    assert "a-token-that-must-not-stay" not in kept


async def test_a_failure_to_ask_is_no_answer_and_is_not_remembered():
    reviewer = Reviewer(down=True)
    gate = Gate(reviewer)
    with pytest.raises(Unavailable):
        await gate.caller("good")
    with pytest.raises(Unavailable):
        await ask(gate)
    reviewer.down = False
    assert await gate.caller("good") == ADA
    assert await ask(gate)


def test_the_table_of_agents_is_bounded_and_keeps_the_newest():
    table = AgentTable()
    for number in range(20_005):
        table.register(Registration(agent_id=f"n{number}", agent_type="gpu"))
    ids = [agent.agent_id for agent in table.all()]
    assert len(ids) == 20_000
    assert ids[0] == "n5"
    assert not table.heartbeat(Heartbeat(agent_id="n0", status="healthy", timestamp=1.0))
    assert table.heartbeat(Heartbeat(agent_id="n20004", status="healthy", timestamp=1.0))


def test_an_agent_that_falls_silent_is_seen_to_and_has_to_register_again():
    now = [1_000_000.0]
    table = AgentTable(clock=lambda: now[0])
    beat = Heartbeat(agent_id="n1", status="healthy", timestamp=1.0)
    table.register(Registration(agent_id="n1", agent_type="gpu"))
    told = []
    for passed in (0.0, 89.0, 90.0, 299.0, 300.0, 3899.0, 3901.0):
        now[0] = 1_000_000.0 + passed
        told.append([str(agent.state) for agent in table.all()])
    assert told == [["Registered"]] * 2 + [["Silent"]] * 2 + [["Expired"]] * 2 + [[]]
    assert not table.heartbeat(beat)


def test_a_heartbeat_ends_silence_and_not_expiry():
    now = [1_000_000.0]
    table = AgentTable(clock=lambda: now[0])
    beat = Heartbeat(agent_id="n1", status="healthy", timestamp=1.0)
    table.register(Registration(agent_id="n1", agent_type="gpu"))
    now[0] += 200.0
    assert table.heartbeat(beat)
    assert [agent.state for agent in table.all()] == ["Registered"]
    now[0] += 301.0
    assert not table.heartbeat(beat), "the 404 asks it to register again"
    table.register(Registration(agent_id="n1", agent_type="gpu"))
    assert [agent.state for agent in table.all()] == ["Registered"]


def test_the_metric_counts_agents_by_state_as_time_goes_by():
    now = [1_000_000.0]
    table = AgentTable(clock=lambda: now[0])
    table.show()
    for number, age in enumerate((0.0, 100.0, 100.0, 1000.0, 9000.0)):
        now[0] = 1_000_000.0 - age
        table.register(Registration(agent_id=f"n{number}", agent_type="gpu"))
    now[0] = 1_000_000.0
    page = generate_latest(REGISTRY).decode()
    counts = {state: f'optiinfra_agents{{state="{state}"}} {count}' for state, count in
              (("Registered", "1.0"), ("Silent", "2.0"), ("Expired", "1.0"))}  # fmt: skip
    assert all(line in page for line in counts.values())


async def test_a_flood_of_tokens_is_turned_away_before_it_reaches_the_api_server():
    class Slow(Reviewer):
        async def authenticate(self, token):
            await released.wait()
            return await super().authenticate(token)

    released = asyncio.Event()
    reviewer = Slow()
    gate = Gate(reviewer)
    flood = [asyncio.create_task(gate.caller(f"bad-{number}")) for number in range(20)]
    await asyncio.sleep(0)
    released.set()
    answers = await asyncio.gather(*flood, return_exceptions=True)
    turned_away = [answer for answer in answers if isinstance(answer, HTTPException)]
    assert [error.status_code for error in turned_away] == [429] * 12
    assert len(reviewer.authenticated) == 8
    assert await gate.caller("good") == ADA, "the place is free again"
