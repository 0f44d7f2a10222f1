"""The external scaler as KEDA meets it: real TLS and HTTP/2, a client of another make (gRPC's own)."""

import asyncio
import json
import shutil
from dataclasses import replace

import grpc
import pytest

from optiinfra.web.keda.connection import Limits
from optiinfra.web.keda.server import KedaServerError
from optiinfra.web.ports import Decision
from tests.unit.web.certificates import Pair
from tests.unit.web.outside import View

CHAT = {"resourceOptimization": "chat"}
METRIC = "optiinfra_desired_replicas"
SECONDS = 30.0


def reference(keda, metadata=CHAT, namespace="inference"):
    # KEDA sends all of the trigger's metadata, its own keys included.
    sent = {"scalerAddress": "optiinfra-operator:9443"} | metadata
    return keda.messages.ScaledObjectRef(name="chat", namespace=namespace, scalerMetadata=sent)


async def metrics(keda, stub, metadata=CHAT, *, name=METRIC, seconds=SECONDS, namespace="inference"):
    request = keda.messages.GetMetricsRequest(scaledObjectRef=reference(keda, metadata, namespace), metricName=name)
    answer = await stub.GetMetrics(request, timeout=seconds)
    return [(one.metricName, one.metricValue, one.metricValueFloat) for one in answer.metricValues]


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def until(condition, what):
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  what is waited for knows of no event
            await asyncio.sleep(0.02)
    assert condition(), what


async def test_a_decision_is_the_metric_and_makes_active(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        specs = (await stub.GetMetricSpec(reference(keda), timeout=SECONDS)).metricSpecs
        assert [(one.metricName, one.targetSize, one.targetSizeFloat) for one in specs] == [(METRIC, 1, 1.0)]
        assert await metrics(keda, stub) == [(METRIC, 7, 7.0)]
        assert (await stub.IsActive(reference(keda), timeout=SECONDS)).result is True


async def test_zero_replicas_are_a_decision_too_and_not_active(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        idle = {"resourceOptimization": "idle"}
        assert await metrics(keda, stub, idle) == [(METRIC, 0, 0.0)]
        assert (await stub.IsActive(reference(keda, idle), timeout=SECONDS)).result is False


async def test_a_variant_has_its_own_decision(keda, scene):
    scene.view.published.append(Decision("inference", "chat.spot", 3, 1.0))
    async with scene.serve(), scene.channel() as channel:
        assert await metrics(keda, keda.Stub(channel), CHAT | {"variant": "spot"}) == [(METRIC, 3, 3.0)]


@pytest.mark.parametrize(
    ("metadata", "namespace", "code", "words"),
    [
        ({"resourceOptimization": "unsure"}, "inference", "FAILED_PRECONDITION", "MetricsAvailable: Stale: silent"),
        ({"resourceOptimization": "nobody"}, "inference", "NOT_FOUND", "no ResourceOptimization inference/nobody"),
        (CHAT, "elsewhere", "NOT_FOUND", "elsewhere/chat"),
        (CHAT | {"variant": "gone"}, "inference", "FAILED_PRECONDITION", "chat.gone"),
        ({}, "inference", "INVALID_ARGUMENT", "resourceOptimization"),
        (CHAT, "", "INVALID_ARGUMENT", "namespace"),
    ],
)
async def test_what_is_not_known_is_an_error_with_its_reason(keda, scene, metadata, namespace, code, words):
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        for call in (
            metrics(keda, stub, metadata, namespace=namespace),
            stub.IsActive(reference(keda, metadata, namespace), timeout=SECONDS),
        ):
            told = await refusal(call)
            assert told[0] == grpc.StatusCode[code]
            assert words in told[1]


async def test_the_spec_is_told_even_while_nothing_is_known(keda, scene):
    # KEDA would build its HPA without our metric, and leave it so.
    scene.view = View(leading=False, leader_address="")
    async with scene.serve(), scene.channel() as channel:
        specs = (await keda.Stub(channel).GetMetricSpec(reference(keda), timeout=SECONDS)).metricSpecs
        assert [one.metricName for one in specs] == [METRIC]
        told = await refusal(keda.Stub(channel).GetMetricSpec(reference(keda, {}), timeout=SECONDS))
        assert told[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_decision_that_is_withdrawn_is_no_answer_any_more(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        assert await metrics(keda, stub) == [(METRIC, 7, 7.0)]
        scene.view.published.clear()
        assert (await refusal(metrics(keda, stub)))[0] == grpc.StatusCode.FAILED_PRECONDITION


async def test_another_metric_is_refused(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        told = await refusal(metrics(keda, keda.Stub(channel), name="s0-other"))
        assert told[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_optional_call_of_newer_kedas_is_unimplemented(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        told = await refusal(keda.Stub(channel).StreamMetricSpec(reference(keda), timeout=SECONDS).read())
        assert told[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_tells_at_once_and_on_every_change_and_ends_when_unsure(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        stream = keda.Stub(channel).StreamIsActive(reference(keda))
        assert (await asyncio.wait_for(stream.read(), SECONDS)).result is True
        scene.view.published[0] = Decision("inference", "chat", 0, 2.0)
        assert (await asyncio.wait_for(stream.read(), SECONDS)).result is False
        scene.view.published[0] = Decision("inference", "chat", 2, 3.0)
        assert (await asyncio.wait_for(stream.read(), SECONDS)).result is True
        scene.view.published.clear()
        assert (await refusal(asyncio.wait_for(stream.read(), SECONDS)))[0] == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_stream_ends_well_after_its_time_so_that_keda_opens_another(keda, scene):
    scene.limits = Limits(stream_seconds=0.3)
    async with scene.serve(), scene.channel() as channel:
        stream = keda.Stub(channel).StreamIsActive(reference(keda))
        assert (await asyncio.wait_for(stream.read(), SECONDS)).result is True
        assert await asyncio.wait_for(stream.read(), SECONDS) is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK


# ---- who answers


async def test_a_follower_answers_what_the_leader_answers(keda, scene, tmp_path):
    scene.token_file = tmp_path / "token"
    scene.token_file.write_text("good")
    scene.view.leading = False
    item = {"namespace": "inference", "name": "chat", "replicas": 5, "decided_at": 1.0}
    scene.leader.answer = (200, "application/json", json.dumps({"items": [item]}).encode())
    async with scene.serve(), scene.channel() as channel:
        assert await metrics(keda, keda.Stub(channel)) == [(METRIC, 5, 5.0)]
    assert scene.leader.calls[0][2] == "/api/v1/decisions/inference"


@pytest.mark.parametrize(("address", "status"), [("", 200), ("10.0.0.9:8080", 503), ("10.0.0.9:8080", 200)])
async def test_a_follower_without_its_leader_says_so_and_never_answers_from_memory(
    keda, scene, tmp_path, address, status
):
    scene.token_file = tmp_path / "token"
    scene.token_file.write_text("good")
    scene.view.leading, scene.view.leader_address = False, address
    scene.leader.answer = (status, "application/json", b"not what was expected")
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        assert (await refusal(metrics(keda, stub)))[0] == grpc.StatusCode.UNAVAILABLE
        stream = stub.StreamIsActive(reference(keda))
        assert (await refusal(asyncio.wait_for(stream.read(), SECONDS)))[0] == grpc.StatusCode.UNAVAILABLE


# ---- TLS


async def test_mutual_tls_lets_in_who_the_ca_knows_and_nobody_else(keda, scene, world):
    scene.mutual = True
    async with scene.serve():
        async with scene.channel(pair=world.keda) as channel:
            assert await metrics(keda, keda.Stub(channel)) == [(METRIC, 7, 7.0)]
        for stranger in (None, world.stranger):
            async with scene.channel(pair=stranger) as channel:
                told = await refusal(metrics(keda, keda.Stub(channel)))
                assert told[0] == grpc.StatusCode.UNAVAILABLE


async def test_a_client_does_not_believe_a_wrong_name_or_another_ca(keda, scene, world):
    async with scene.serve():
        for options in ({"name": "keda.example"}, {"authority": world.client_authority}):
            async with scene.channel(**options) as channel:
                told = await refusal(metrics(keda, keda.Stub(channel), seconds=5.0))
                assert told[0] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_without_tls_there_is_no_answer(keda, scene):
    async with scene.serve(), grpc.aio.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
        told = await refusal(metrics(keda, keda.Stub(channel), seconds=5.0))
        assert told[0] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_certificates_are_renewed_without_a_restart_and_bad_ones_are_said(keda, scene, world, tmp_path):
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(world.serving.certificate, pair.certificate)
    shutil.copy(world.serving.key, pair.key)
    scene.serving = pair
    async with scene.serve(), scene.channel() as channel:
        old = keda.Stub(channel)
        assert await metrics(keda, old) == [(METRIC, 7, 7.0)]
        pair.certificate.write_text("no certificate")
        await until(lambda: not scene.server.health().healthy, "the health says that the files do not fit")
        assert str(pair.certificate) in scene.server.health().message
        async with scene.channel() as another:
            assert await metrics(keda, keda.Stub(another)) == [(METRIC, 7, 7.0)], "the old ones are still in use"
        fresh = world.client_authority.sign("optiinfra-keda.optiinfra.svc", server=True)
        shutil.copy(fresh.key, pair.key)
        shutil.copy(fresh.certificate, pair.certificate)
        await until(lambda: scene.server.health().healthy, "the new files are in use")
        async with scene.channel(authority=world.client_authority) as renewed:
            assert await metrics(keda, keda.Stub(renewed)) == [(METRIC, 7, 7.0)]
        assert await metrics(keda, old) == [(METRIC, 7, 7.0)], "an open connection goes on"


@pytest.mark.parametrize("broken", ["certificate", "key"])
async def test_unusable_certificates_and_a_taken_port_are_one_clear_error(scene, world, tmp_path, broken):
    file = tmp_path / "broken"
    file.write_text("nothing")
    scene.serving = replace(world.serving, **{broken: file})
    with pytest.raises(KedaServerError, match="broken"):
        async with scene.serve():
            pass


# ---- bounds


async def test_a_request_that_is_too_large_is_refused_and_the_connection_goes_on(keda, scene):
    scene.limits = Limits(message_bytes=2048)
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        told = await refusal(metrics(keda, stub, CHAT | {"filler": "x" * 60_000}))
        assert told[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await metrics(keda, stub) == [(METRIC, 7, 7.0)]


async def test_connections_are_bounded(keda, scene):
    scene.limits = Limits(connections=1)
    async with scene.serve(), scene.channel() as channel:
        assert await metrics(keda, keda.Stub(channel)) == [(METRIC, 7, 7.0)]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", scene.port, ssl=_http2_context(scene.world), server_hostname="127.0.0.1"
        )
        assert await asyncio.wait_for(_all_of(reader), SECONDS) == b""
        writer.close()
        assert await metrics(keda, keda.Stub(channel)) == [(METRIC, 7, 7.0)]


async def test_many_at_once_are_all_answered(keda, scene):
    async with scene.serve(), scene.channel() as channel:
        stub = keda.Stub(channel)
        streams = [stub.StreamIsActive(reference(keda)) for _ in range(150)]
        for stream in streams:
            assert (await asyncio.wait_for(stream.read(), SECONDS)).result is True
        answers = await asyncio.gather(*(metrics(keda, stub) for _ in range(300)))
        assert answers == [[(METRIC, 7, 7.0)]] * 300
        for stream in streams:
            stream.cancel()


async def test_a_call_that_takes_too_long_ends_by_its_deadline(keda, scene, tmp_path):
    async def never(*_args, **_kwargs):
        await asyncio.sleep(3600.0)

    scene.token_file = tmp_path / "token"
    scene.token_file.write_text("good")
    scene.view.leading = False
    scene.leader.forward = never
    scene.limits = Limits(call_seconds=0.3)
    async with scene.serve(), scene.channel() as channel:
        told = await refusal(metrics(keda, keda.Stub(channel)))
        assert told[0] == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_old_connection_ends_between_calls_and_the_client_does_not_notice(keda, scene):
    scene.limits = Limits(age_seconds=0.3)
    async with scene.serve(), scene.channel() as channel, asyncio.timeout(SECONDS):
        stub = keda.Stub(channel)
        while scene.server.accepted < 3:
            request = keda.messages.GetMetricsRequest(scaledObjectRef=reference(keda), metricName=METRIC)
            answer = await stub.GetMetrics(request, timeout=SECONDS, wait_for_ready=True)
            assert answer.metricValues[0].metricValue == 7
            await asyncio.sleep(0.02)


def _http2_context(world):
    from tests.unit.web.certificates import client_context

    context = client_context(world.serving_authority, None)
    context.set_alpn_protocols(["h2"])
    return context


async def _all_of(reader):
    try:
        return await reader.read()
    except ConnectionError:
        return b""
