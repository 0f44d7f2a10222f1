"""OpenAI's completions API over a fleet in real time: what load generators send, and what they must get back."""

import asyncio
import io
import json
import socket

import aiohttp
import pytest

from optiinfra_sim import api, completions
from optiinfra_sim.errors import ApiError, EngineError, SimulatorError
from optiinfra_sim.live import LiveFleet
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineKind, EngineSettings

FAST = {"model_name": "tiny", "max_model_len": 2048, "num_blocks": 400, "step_seconds": 0.0005}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Served:
    """A live fleet and a client of its first port."""

    def __init__(self, live, ports, session):
        self.live = live
        self.ports = ports
        self.session = session

    def url(self, path, *, port=0):
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    async def post(self, path, body, *, port=0):
        async with self.session.post(self.url(path, port=port), data=json.dumps(body)) as answer:
            return answer.status, await answer.json()

    async def page(self, *, port=0):
        async with self.session.get(self.url("/metrics", port=port)) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def serve():
    started = []

    async def start(*, replicas=1, startup=0.0, **settings):
        live = LiveFleet(
            EngineSettings(**(FAST | settings)),
            replicas=replicas,
            routing=Routing.ROUND_ROBIN,
            startup_seconds=startup,
        )
        ports = free_ports(live.ports)
        await live.start(host="127.0.0.1", ports=ports)
        pace = asyncio.create_task(live.pace())
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        started.append((live, pace, session))
        return Served(live, ports, session)

    yield start
    for live, pace, session in started:
        pace.cancel()
        await asyncio.gather(pace, return_exceptions=True)
        await session.close()
        await live.stop()


async def events(served, path, body):
    async with served.session.post(served.url(path), data=json.dumps(body | {"stream": True})) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        found = [line[6:].strip() async for line in answer.content if line.startswith(b"data: ")]
    assert found[-1] == b"[DONE]"
    return [json.loads(one) for one in found[:-1]]


async def test_a_completion_has_its_tokens_usage_and_place_on_the_page(serve):
    served = await serve()
    status, answer = await served.post("/v1/completions", {"model": "tiny", "prompt": "x" * 400, "max_tokens": 30})
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["usage"] == {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["text"].split() == ["simulated"] * 30
    _, page = await served.page()
    assert 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 30.0' in page
    assert 'vllm:prompt_tokens_total{engine="0",model_name="tiny"} 100.0' in page


async def test_a_stream_sends_one_event_a_token_and_the_usage_when_asked(serve):
    served = await serve()
    body = {"prompt": [1, 2, 3, 4], "max_tokens": 12, "stream_options": {"include_usage": True}}
    told = await events(served, "/v1/completions", body)
    assert [len(one["choices"]) for one in told] == [1] * 12 + [0]
    assert [one["choices"][0]["finish_reason"] for one in told[:-1]] == [None] * 11 + ["length"]
    assert told[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
    assert len({one["id"] for one in told}) == 1


async def test_a_chat_streams_deltas_and_stops_by_itself_without_max_tokens(serve):
    served = await serve()
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}
    told = await events(served, "/v1/chat/completions", body)
    assert told[0]["object"] == "chat.completion.chunk"
    assert told[0]["choices"][0]["delta"]["content"] == " simulated"
    assert told[-1]["choices"][0]["finish_reason"] == "stop"
    assert len(told) == completions.DEFAULT_ANSWER
    status, answer = await served.post("/v1/chat/completions", body | {"max_completion_tokens": 3})
    assert status == 200
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] == 3


async def test_models_and_health(serve):
    served = await serve()
    async with served.session.get(served.url("/v1/models")) as answer:
        models = await answer.json()
    assert [one["id"] for one in models["data"]] == ["tiny"]
    assert models["data"][0]["max_model_len"] == 2048
    async with served.session.get(served.url("/health")) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/v1/completions", {"model": "other", "prompt": "x"}, 404, "other"),
        ("/v1/completions", {}, 400, "prompt"),
        ("/v1/completions", {"prompt": []}, 400, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400, "one prompt"),
        ("/v1/completions", {"prompt": "x", "n": 2}, 400, "n must be 1"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5000}, 400, "maximum context length is 2048"),
        ("/v1/completions", {"prompt": "x" * 10_000}, 400, "maximum context length is 2048"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", [1], 400, "body"),
    ],
)
async def test_refusals_have_openai_s_form(serve, path, body, status, named):
    served = await serve()
    got, answer = await served.post(path, body)
    assert got == status
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert named in answer["error"]["message"]
    assert answer["error"]["code"] == status


async def test_bodies_are_bounded_and_must_be_json(serve):
    served = await serve()
    async with served.session.post(served.url("/v1/completions"), data=b"{") as answer:
        assert (answer.status, "not JSON" in (await answer.json())["error"]["message"]) == (400, True)
    huge = b'{"prompt": "' + b"x" * completions.MAX_BODY_BYTES + b'"}'
    async with served.session.post(served.url("/v1/completions"), data=io.BytesIO(huge)) as answer:
        assert answer.status == 413
        assert "larger than" in (await answer.json())["error"]["message"]


async def test_too_many_requests_and_too_long_ones_are_turned_away(serve, monkeypatch):
    served = await serve(step_seconds=5.0)
    monkeypatch.setattr(api, "LONGEST_SECONDS", 0.2)
    status, answer = await served.post("/v1/completions", {"prompt": "x", "max_tokens": 100})
    assert (status, answer["error"]["type"]) == (408, "TimeoutError")
    monkeypatch.setattr(api, "MAX_REQUESTS", 0)
    status, answer = await served.post("/v1/completions", {"prompt": "x"})
    assert status == 503
    assert "ask again later" in answer["error"]["message"]
    _, page = await served.page()
    assert 'finished_reason="abort",model_name="tiny"} 1.0' in page


async def test_a_client_that_goes_away_takes_its_request_with_it(serve):
    served = await serve(step_seconds=0.01)
    answer = await served.session.post(
        served.url("/v1/completions"), data=json.dumps({"prompt": "x", "max_tokens": 2000, "stream": True})
    )
    await answer.content.readline()
    assert served.live.fleet.state().running == 1
    answer.close()
    async with asyncio.timeout(10):
        while served.live.fleet.state().running:
            await served.live.tick()
    assert served.live.fleet.replicas["replica-0"].engine.kv_usage == 0


async def test_equal_beginnings_hit_the_prefix_cache(serve):
    served = await serve()
    start = "You are a helpful assistant. " * 40
    for question in ("first", "second"):
        await served.post("/v1/completions", {"prompt": start + question, "max_tokens": 2})
    metrics = served.live.fleet.replicas["replica-0"].engine.metrics
    assert metrics.prefix_hits >= 0.9 * metrics.prefix_queries / 2


async def test_several_replicas_have_a_page_each_and_the_router_none(serve):
    served = await serve(replicas=2, kind=EngineKind.SGLANG)
    for _ in range(4):
        await served.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
    assert (await served.page())[0] == 404
    for port in (1, 2):
        status, page = await served.page(port=port)
        assert status == 200
        assert 'sglang:num_requests_total{engine_type="unified",is_streaming="true",model_name="tiny"} 2.0' in page
    await served.post("/v1/completions", {"prompt": "x", "max_tokens": 2}, port=2)
    assert 'model_name="tiny"} 3.0' in (await served.page(port=2))[1]


async def test_a_loading_engine_says_so_and_its_router_makes_requests_wait(serve):
    served = await serve(startup=0.5)
    assert (await served.page())[0] == 503
    async with served.session.get(served.url("/health")) as answer:
        assert answer.status == 503
    status, _ = await served.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
    assert status == 200
    assert (await served.page())[0] == 200


async def test_a_taken_port_is_an_error(serve):
    served = await serve()
    other = LiveFleet(EngineSettings(**FAST), replicas=1, routing=Routing.ROUND_ROBIN)
    with pytest.raises(SimulatorError, match="cannot be opened"):
        await other.start(host="127.0.0.1", ports=served.ports)


def test_a_model_name_that_would_break_the_page_is_refused():
    with pytest.raises(EngineError, match="model_name"):
        EngineSettings(model_name='a"b')


def test_a_chat_without_text_still_has_a_prompt():
    asked = completions.parse(
        b'{"messages": [{"role": "user", "content": null}]}', chat=True, model="m", max_model_len=100
    )
    assert asked.prompt > 0
    assert asked.limit == 100 - asked.prompt
    with pytest.raises(ApiError, match="messages"):
        completions.parse(b'{"messages": "no"}', chat=True, model="m", max_model_len=100)
