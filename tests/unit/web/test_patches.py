"""Dry runs and patches over HTTP: what is asked for strictly, what is answered, and how it is bounded."""

from typing import Any

import pytest

from optiinfra.web.ports import Preview, PreviewedTarget, PreviewedWrite
from tests.unit.web.outside import View, document, serve

RUN = "/api/v1/optimize/run"
RO = "ResourceOptimization"
ITEM: dict[str, Any] = {
    "id": "abc123",
    "type": "BatchSize",
    "reason": "Test",
    "message": "m",
    "setting": "--max-num-seqs",
    "current": "256",
    "proposed": "512",
    "lower": "512",
    "upper": "512",
    "direction": "Resize",
    "confidence": 0.9,
    "place": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm", "container": "vllm"},
    "issuedAt": "2026-11-22T00:00:00Z",
    "expiresAt": "2026-11-23T00:00:00Z",
}
WRITE = PreviewedWrite("PATCH", "/apis/x?fieldManager=optiinfra", "application/json", "optiinfra", '{"spec": {"a": 1}}')


def view(item: dict[str, Any] | None = None, *args: str, **more: Any) -> View:
    containers = [{"name": "vllm", "args": list(args or ("--max-num-seqs=256", "--api-key=secret"))}]
    workload = {"spec": {"template": {"spec": {"containers": containers}}}}
    shown = document(RO, "a", "x", recommendations=[item or ITEM])
    return View(documents=[shown], manifests={("Deployment", "vllm"): workload}, **more)


async def asked(found: View, query: str = "") -> Any:
    async with serve(found) as client:
        return await client.get(f"/api/v1/recommendations/abc123/patch{query}")


async def test_a_json_patch_names_its_object_and_tests_what_it_changes():
    answer = await asked(view(), "?format=json&namespace=a")
    assert answer.status_code == 200
    (patch,) = answer.json()["patches"]
    assert patch["target"] == {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "a", "name": "vllm"}
    assert patch["contentType"] == "application/json-patch+json"
    assert [one["op"] for one in patch["patch"]] == ["test", "test", "replace"]
    assert "secret" not in answer.text, "who may see recommendations may not see all arguments"


async def test_the_default_is_a_kustomize_component():
    answer = await asked(view())
    assert answer.headers["content-type"].startswith("application/yaml")
    assert "kind: Component" in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("found", "query", "code", "word"),
    [
        (View(documents=[document(RO, "a", "x")]), "", 404, "no recommendation"),
        (view(ITEM | {"setting": "lmcache"}), "", 409, "no patch can be written"),
        (view(None, "--max-num-seqs=512"), "", 409, "says so already"),
        (View(documents=[document(RO, "a", "x", recommendations=[ITEM])]), "", 409, "does not exist any more"),
        (view({"id": "abc123"}), "", 409, "cannot be read"),
        (view(), "?format=strategic", 409, "replaced as a whole"),
        (view(), "?format=xml", 422, "format"),
        (view(), "?formt=json", 422, "formt"),
        (view(), "?namespace=../x", 422, "namespace"),
    ],
)
async def test_what_cannot_be_answered_says_why(found, query, code, word):
    answer = await asked(found, query)
    assert answer.status_code == code, answer.text
    assert word in answer.text


async def run(found: View, query: str = "?dryRun=true", body: object = None) -> Any:
    async with serve(found) as client:
        return await client.post(f"{RUN}{query}", json=body or {"namespace": "a", "name": "x"})


async def test_a_dry_run_answers_with_what_would_be_sent_and_starts_no_round():
    target = PreviewedTarget("vllm", 1, 3, "QueueDrain", "m")
    found = view(previewed=Preview((WRITE,), 2, (("x", 3),), (target,)))
    answer = await run(found)
    assert answer.status_code == 200
    told = answer.json()
    assert told["writes"][0]["body"] == {"spec": {"a": 1}}
    assert told["published"] == [{"name": "x", "replicas": 3}]
    assert (told["more"], told["targets"][0]["order"]) == (2, 3)
    assert found.asked == [], "no round was asked for"


async def test_a_dry_run_is_bounded_in_size_and_time():
    large = PreviewedWrite("PATCH", "/x", "application/json", "optiinfra", '"' + "x" * 60_000 + '"')
    told = (await run(view(previewed=Preview((large,) * 64)))).json()
    assert len(told["writes"]) + told["more"] == 64
    assert len(told["writes"]) == 4
    late = await run(view(previewed=TimeoutError()))
    assert (late.status_code, "try again" in late.text) == (504, True)
    nobody = await run(view(), body={"namespace": "a", "name": "nobody"})
    assert nobody.status_code == 404


@pytest.mark.parametrize("query", ["?dryRun=1", "?dryRun=True", "?dryrun=true", "?dryRun=true&x=1"])
async def test_a_misspelt_dry_run_is_refused_and_never_taken_for_a_real_one(query):
    found = view()
    assert (await run(found, query)).status_code == 422
    assert found.asked == []


async def test_a_field_that_does_not_exist_is_refused():
    found = view()
    assert (await run(found, "", {"namespace": "a", "name": "x", "dryRun": True})).status_code == 422
    assert found.asked == []
