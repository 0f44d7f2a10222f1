"""A model's config.json in a ConfigMap of a real API server: read, missing, no file of a model, and forbidden.

The last test runs the operator under the chart's rights: what people see is the status and the log.
"""

import contextlib
import json
import os

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.model_files import ModelFiles
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.engine_pages import EnginePages, Page, Scene, make_namespace
from tests.operator_process import eventually, free_port, install

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


@pytest.fixture
def put(apiserver, namespace):
    def create(name, **parts):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **parts}
        apiserver.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)

    return create


async def test_a_file_is_read_with_one_call(apiserver, namespace, put):
    put("llama", data={"config.json": json.dumps(LLAMA, indent=2), "other": "not looked at"})
    calls = []
    async with KubernetesClient.from_environment(
        str(apiserver.kubeconfig), observe=lambda *call: calls.append(call[:3])
    ) as observed:
        found = await ModelFiles(observed).read(namespace=namespace, name="llama", key="config.json")
    assert isinstance(found, ModelFacts)
    assert (found.layers, found.kv_heads, found.head_size, found.weight_bytes_each) == (32.0, 8.0, 128.0, 2.0)
    assert found.attention is Attention.FULL
    assert calls == [("get", "configmaps", 200)]


@pytest.mark.parametrize(
    ("parts", "reason", "word"),
    [
        (None, UnknownReason.NOT_CONFIGURED, "does not exist"),
        ({}, UnknownReason.NOT_CONFIGURED, "no such key"),
        ({"data": {"Config.json": "{}"}}, UnknownReason.NOT_CONFIGURED, "no such key"),
        ({"binaryData": {"config.json": "/w=="}}, UnknownReason.INVALID, "no text"),
        ({"data": {"config.json": "model: secret-name"}}, UnknownReason.INVALID, "not JSON"),
        ({"data": {"config.json": "[]"}}, UnknownReason.INVALID, "not an object"),
        ({"data": {"config.json": '{"secret-name": 32}'}}, UnknownReason.INVALID, "no number of layers"),
        ({"data": {"config.json": " " * 300_000}}, UnknownReason.INVALID, "more than 256 KiB"),
        # Quotes are two bytes each in the answer.
        ({"data": {"config.json": "{}", "more": '"' * 600_000}}, UnknownReason.INVALID, "ConfigMap of its own"),
    ],
)
async def test_what_cannot_be_used_says_why(client, namespace, put, parts, reason, word):
    if parts is not None:
        put("llama", **parts)
    found = await ModelFiles(client).read(namespace=namespace, name="llama", key="config.json")
    assert isinstance(found, Unknown)
    assert found.reason is reason
    assert word in found.detail
    assert "secret-name" not in found.detail


async def test_without_the_right_the_reason_names_the_value_that_gives_it(apiserver, namespace, put):
    put("llama", data={"config.json": json.dumps(LLAMA)})
    apiserver.kubectl("create", "serviceaccount", "operator", "-n", namespace)
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "operator")
    async with KubernetesClient.from_environment(str(kubeconfig)) as forbidden:
        files = ModelFiles(forbidden)
        for name in ("llama", "missing"):
            found = await files.read(namespace=namespace, name=name, key="config.json")
            assert isinstance(found, Unknown)
            assert found.reason is UnknownReason.REFUSED
            assert "Forbidden" in found.detail
            assert "modelConfigMaps.enabled" in found.detail
        apiserver.kubectl(
            "create", "role", "files", "-n", namespace, "--verb=get", "--resource=configmaps", "--resource-name=llama"
        )
        apiserver.kubectl(
            "create", "rolebinding", "files", "-n", namespace, "--role=files", f"--serviceaccount={namespace}:operator"
        )
        assert isinstance(await files.read(namespace=namespace, name="llama", key="config.json"), ModelFacts)


async def test_a_server_that_does_not_answer_is_no_news(apiserver, namespace):
    kubeconfig = str(apiserver.kubeconfig)
    client = KubernetesClient.from_environment(kubeconfig)
    async with client:
        pass
    found = await ModelFiles(client).read(namespace=namespace, name="llama", key="config.json")
    assert isinstance(found, Unknown)
    assert found.reason is UnknownReason.UNREACHABLE


@pytest.mark.timeout(120)
def test_the_operator_uses_what_it_may_read_and_shows_what_it_may_not(apiserver, tmp_path):
    prefix = f"files-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        for case in ("allowed", "closed"):
            make_namespace(apiserver, f"{prefix}-{case}")
        pages = stack.enter_context(EnginePages(free_port()))
        values = {"modelConfigMaps.enabled": "true", "modelConfigMaps.namespaces": f"{{{prefix}-allowed}}"}
        installation = stack.enter_context(
            install(apiserver, folder=tmp_path, namespace=f"{prefix}-operator", values=values)
        )
        operator = installation.operator(OPTIINFRA_INTERVAL_SECONDS="1", OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1")
        scene = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(scene.remove)
        stack.callback(operator.kill)
        for case, name in (("allowed", "here"), ("allowed", "missing"), ("closed", "here")):
            namespace = scene.made[case] = f"{prefix}-{case}"
            scene.engines(namespace, name, Page())
            scene.optimize(namespace, name, model={"configMapRef": {"name": f"model-{name}"}})
            if name == "here":
                body = {"metadata": {"name": "model-here"}, "data": {"config.json": json.dumps(LLAMA)}}
                apiserver.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)
        operator.start().wait_ready()

        def said(case, name):
            refusals = scene.status(scene.made[case], name).get("refusals", ())
            return [entry["message"] for entry in refusals if entry["reason"] == "ModelFileUnreadable"]

        def unread():
            return [*said("allowed", "missing"), *said("closed", "here")]

        missing, forbidden = eventually(
            lambda: unread() if len(unread()) == 2 else None, seconds=60, what="two files that cannot be read"
        )
        assert "ConfigMap model-missing, key config.json" in missing
        assert "does not exist" in missing
        assert "Forbidden" in forbidden
        assert "modelConfigMaps.enabled" in forbidden

        def log(message):
            return sorted(
                (one["namespace"], one["configmap"]) for one in operator.records() if one["message"] == message
            )

        read = eventually(lambda: log("model file read") or None, seconds=30, what="a file that is read")
        assert read == [(f"{prefix}-allowed", "model-here")]
        assert log("model file not read") == [
            (f"{prefix}-allowed", "model-missing"),
            (f"{prefix}-closed", "model-here"),
        ]
        assert scene.status(scene.made["allowed"], "here")["refusals"]
        assert said("allowed", "here") == []
        assert not operator.complaints()
