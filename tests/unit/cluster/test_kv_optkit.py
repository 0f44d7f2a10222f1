"""The client of KV-OptKit: against the recorded answers, servers that misbehave, and the real server of its package."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from optiinfra.cluster.kv_optkit import read_plan
from optiinfra.domain.kv_optkit_plan import KVOptKitPlan, PlannedAction, note
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.kv_optkit_server import NotInstalledError, running

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "kv_optkit" / "answers.json").read_text())
HEALTH, PLAN = "GET /healthz", "POST /autopilot/plan"
# The form of its Action.dict(); its simulator has no sequences, so that no recorded plan has actions.
ACTION = {"action_type": "EVICT", "target": {"sequence_id": "s1", "start_token": "", "end_token": ""}, "params": {}}


def answer(body, *, status=200, content_type="application/json"):
    return {"status": status, "content_type": content_type, "body": body if isinstance(body, str) else json.dumps(body)}


def plan_of(**changes):
    return answer(json.loads(RECORDED[PLAN]["body"]) | {"actions": [ACTION], "estimated_hbm_reduction": 0.02} | changes)


@asynccontextmanager
async def serving(answers, *, seen=None, delay=0.0):
    """A server that answers what it is told, and nothing else."""

    async def handle(request):
        if seen is not None:
            seen.append((request.method, request.path, await request.read()))
        await asyncio.sleep(delay)
        found = answers.get(f"{request.method} {request.path}", answer("", status=404))
        if found.get("location"):
            raise web.HTTPFound(found["location"])
        return web.Response(
            status=found["status"], body=found["body"].encode(), headers={"Content-Type": found["content_type"]}
        )

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(answers, **more):
    async with serving({HEALTH: RECORDED[HEALTH]} | answers) as address:
        return await read_plan(address, **more)


# ---- the recorded answers


async def test_the_recorded_server_s_plan_is_empty_and_so_unavailable():
    found = await ask({PLAN: RECORDED[PLAN]})
    assert isinstance(found, Unknown)
    assert "plan is empty" in found.detail
    said = note(found)
    assert said.reason == "KVOptKitUnavailable"
    assert "empty" in said.message


async def test_nothing_is_ever_carried_out():
    seen = []
    async with serving(RECORDED, seen=seen) as address:
        await read_plan(address)
    assert [(method, path) for method, path, _ in seen] == [("GET", "/healthz"), ("POST", "/autopilot/plan")]
    assert json.loads(seen[1][2])["dry_run"] is True


async def test_a_plan_of_the_simulator_is_shown_as_that():
    found = await ask({PLAN: plan_of(actions=[ACTION, ACTION, ACTION | {"action_type": "QUANTIZE"}])})
    assert isinstance(found, KVOptKitPlan)
    assert found.simulated
    assert found.version == "0.4.1"
    assert found.actions.count(PlannedAction.EVICT) == 2
    said = note(found)
    assert said.reason == "KVOptKitPlan"
    assert "2 x EVICT, 1 x QUANTIZE" in said.message
    assert "simulator" in said.message
    assert "not followed" in said.message


async def test_a_path_before_the_server_s_own_is_kept():
    answers = {"GET /kv/healthz": RECORDED[HEALTH], "POST /kv/autopilot/plan": plan_of()}
    async with serving(answers) as address:
        assert isinstance(await read_plan(f"{address}/kv"), KVOptKitPlan)


# ---- whatever is no plan is unavailable, with the reason


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (RECORDED["GET /advisor/report"], "HTTP 500"),
        (answer("Internal Server Error", status=500, content_type="text/plain"), "HTTP 500"),
        (answer("", status=503), "HTTP 503"),
        (answer("", status=404), "HTTP 404"),
        (answer("", status=204), "HTTP 204"),
        (answer("{}", status=401), "permission"),
        (answer(""), "nothing"),
        (answer("  \n"), "nothing"),
        (answer("<html>", content_type="text/html"), "else than JSON"),
        (answer("[1]"), "no JSON object"),
        (answer("NaN"), "else than JSON"),
        (answer({}), "list of actions"),
        (plan_of(actions="EVICT"), "list of actions"),
        (plan_of(actions=[ACTION] * 101), "list of actions"),
        (plan_of(actions=["EVICT"]), "without a kind"),
        (plan_of(actions=[{"action_type": 3}]), "without a kind"),
        (plan_of(estimated_hbm_reduction=None), "not a number"),
        (plan_of(estimated_hbm_reduction=True), "not a number"),
        (plan_of(estimated_hbm_reduction="0.1"), "not a number"),
        (plan_of(estimated_hbm_reduction=-0.1), "out of range"),
        (plan_of(estimated_hbm_reduction=1.5), "out of range"),
        (plan_of(estimated_accuracy_impact=-1), "out of range"),
        (plan_of(actions=[]), "empty"),
        (answer("x" * 300_000), "more than"),
    ],
)
@pytest.mark.parametrize("path", [PLAN, HEALTH])
async def test_no_answer_but_a_plan_becomes_a_number(bad, says, path):
    if path == HEALTH and bad["status"] == 200 and bad["body"].startswith("{"):
        says = "which version and adapter"
    found = await ask({PLAN: plan_of()} | {path: bad})
    assert isinstance(found, Unknown)
    assert says in found.detail
    assert len(found.detail) <= 256
    assert note(found).reason == "KVOptKitUnavailable"


async def test_text_of_theirs_is_never_repeated():
    evil = {"status": "ok", "version": "1.0 ignore\nall", "adapter": "Evil: do this"}
    found = await ask({HEALTH: answer(evil), PLAN: plan_of(actions=[ACTION | {"action_type": "rm -rf"}])})
    assert found.actions == (PlannedAction.OTHER,)
    assert not found.simulated
    assert re.fullmatch(r"[\w.+-]*", found.version)
    assert "rm" not in note(found).message


async def test_redirects_are_not_followed():
    elsewhere = answer("") | {"location": "http://127.0.0.1:1/"}
    found = await ask({PLAN: elsewhere})
    assert "HTTP 302" in found.detail


async def test_a_slow_server_costs_its_time_out_and_no_more():
    async with serving(RECORDED, delay=5.0) as address:
        found = await read_plan(address, timeout_s=0.2)
    assert found.reason is UnknownReason.UNREACHABLE
    assert "0.2 s" in found.detail


async def test_nobody_there_is_unreachable():
    async with serving(RECORDED) as address:
        pass
    found = await read_plan(address)
    assert found.reason is UnknownReason.UNREACHABLE


@pytest.mark.parametrize("address", ["", "kv-optkit", "ftp://a/", "http://", "http://[::1", "file:///etc/passwd"])
async def test_what_is_no_address_is_not_configured(address):
    assert (await read_plan(address)).reason is UnknownReason.NOT_CONFIGURED


# ---- the real server


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    try:
        with running(tmp_path_factory.mktemp("kv-optkit")) as address:
            yield address
    except NotInstalledError as error:
        pytest.skip(str(error))


async def test_the_real_server_is_read_as_it_was_recorded(real_server):
    found = await read_plan(real_server, timeout_s=20.0)
    assert isinstance(found, Unknown)
    assert "plan is empty" in found.detail


async def test_the_recording_is_what_the_real_server_answers(real_server):
    import aiohttp

    body = json.dumps({"target_hbm_util": 0.85, "max_actions": 100, "dry_run": True})
    async with aiohttp.ClientSession() as session:
        for call, recorded in RECORDED.items():
            method, _, path = call.partition(" ")
            data = {"data": body, "headers": {"Content-Type": "application/json"}} if method == "POST" else {}
            async with session.request(method, real_server + path, **data) as response:
                assert response.status == recorded["status"], call
                assert shape(await response.text()) == shape(recorded["body"]), call


def shape(text):
    """Leave out what the clock says."""
    return re.sub(r"\d{6,}(\.\d+)?(e\+\d+)?|\d\.\d+e\+\d+", "T", text)
