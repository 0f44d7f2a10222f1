"""Patches as exact operations: applied to the document they change what was meant, and nothing else."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.manifest_patch import NoPatchError, argument_operations, merge_operations


def resolve(document: Any, path: str) -> tuple[Any, Any]:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
    for step in steps[:-1]:
        document = document[int(step)] if isinstance(document, list) else document[step]
    last = steps[-1]
    return document, (last if last == "-" or not isinstance(document, list) else int(last))


def applied(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902, as far as it is used; a failing test raises."""
    result = copy.deepcopy(document)
    for one in operations:
        parent, key = resolve(result, one["path"])
        match one["op"]:
            case "test":
                assert parent[key] == one["value"], one
            case "add" if key == "-":
                parent.append(one["value"])
            case "add" | "replace":
                parent[key] = one["value"]
            case "remove":
                del parent[key]
    return result


def workload(*args: str, command: tuple[str, ...] = (), **container: Any) -> dict[str, Any]:
    engine: dict[str, Any] = {"name": "vllm", "image": "vllm", **container}
    if args:
        engine["args"] = list(args)
    if command:
        engine["command"] = list(command)
    containers = [{"name": "proxy", "args": ["--max-num-seqs=1"]}, engine]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": containers}}}}


def engine_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["template"]["spec"]["containers"][1]


def flagged(document: dict[str, Any], value: str = "512", *, flag: str = "--max-num-seqs", given: str = "256") -> Any:
    operations = argument_operations(document, container="vllm", flag=flag, value=value, given=given)
    return engine_of(applied(document, operations))


@pytest.mark.parametrize(
    ("args", "after"),
    [
        (("serve", "--max-num-seqs=256", "--x"), ["serve", "--max-num-seqs=512", "--x"]),
        (("serve", "--max-num-seqs", "256", "--x"), ["serve", "--max-num-seqs", "512", "--x"]),
        (("--max_num_seqs=256",), ["--max_num_seqs=512"]),
        (("--max-num-seqs=512",), ["--max-num-seqs=512"]),
    ],
)
def test_a_flag_that_is_there_gets_its_value_and_nothing_else_moves(args, after):
    assert flagged(workload(*args))["args"] == after


def test_a_flag_that_is_not_given_is_added_at_the_end():
    assert flagged(workload("serve"), given="not given")["args"] == ["serve", "--max-num-seqs=512"]
    assert flagged(workload(command=("vllm", "serve")), given="off")["command"] == [
        "vllm",
        "serve",
        "--max-num-seqs=512",
    ]
    assert flagged(workload(), given="")["args"] == ["--max-num-seqs=512"]
    assert flagged(workload("serve"), "on", flag="--fast", given="off")["args"] == ["serve", "--fast"]


def test_a_flag_is_taken_away_with_its_value():
    assert flagged(workload("serve", "--x=1", "--y"), "off", flag="--x", given="1")["args"] == ["serve", "--y"]
    assert flagged(workload("serve", "--x", "1", "--y"), "off", flag="--x", given="1")["args"] == ["serve", "--y"]
    assert flagged(workload("serve", "--x", "--y"), "off", flag="--x", given="on")["args"] == ["serve", "--y"]
    assert argument_operations(workload("serve"), container="vllm", flag="--x", value="off", given="off") == []


@pytest.mark.parametrize(
    ("document", "value", "given", "word"),
    [
        (workload("-c", "vllm serve --max-num-seqs 256", command=("/bin/sh",)), "512", "256", "shell"),
        (workload("-c", "vllm serve", command=("/bin/sh",)), "512", "off", "shell"),
        (workload("serve"), "512", "256", "variable"),
        (workload("--max-num-seqs=1", "--max-num-seqs=2"), "512", "2", "more than once"),
        (workload("serve"), "5 12", "off", "no value"),
        (workload("serve"), "5\n12", "off", "no value"),
        ({"spec": {"template": {"spec": {"containers": []}}}}, "512", "off", "no container vllm"),
        ({}, "512", "off", "no container"),
    ],
)
def test_what_cannot_be_reached_exactly_is_refused_with_the_reason(document, value, given, word):
    with pytest.raises(NoPatchError, match=word):
        argument_operations(document, container="vllm", flag="--max-num-seqs", value=value, given=given)


def test_a_manifest_that_was_changed_meanwhile_fails_instead_of_changing_something_else():
    operations = argument_operations(
        workload("serve", "--max-num-seqs=256"), container="vllm", flag="--max-num-seqs", value="512", given="256"
    )
    with pytest.raises(AssertionError):
        applied(workload("serve", "--new", "--max-num-seqs=256"), operations)


def test_the_leader_of_a_group_is_found_too():
    spec = {"containers": [{"name": "vllm", "args": ["--max-num-seqs=1"]}]}
    live = {"spec": {"leaderWorkerTemplate": {"leaderTemplate": {"spec": spec}}}}
    operations = argument_operations(live, container="vllm", flag="--max-num-seqs", value="2", given="1")
    path = operations[-1]["path"]
    assert path == "/spec/leaderWorkerTemplate/leaderTemplate/spec/containers/0/args/0"


def size(name: str, **resources: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {"template": {"spec": {"containers": [{"name": name, "resources": resources}]}}},
    }


def test_a_request_changes_in_its_own_container_alone():
    live = workload("serve", resources={"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "1Gi"}})
    after = applied(live, merge_operations(live, size("vllm", requests={"cpu": "500m"})))
    assert engine_of(after)["resources"] == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    engine_of(after)["resources"]["requests"]["cpu"] = "2"
    assert after == live, "and nothing else"


def test_a_null_takes_away_and_what_is_missing_is_made():
    live = workload("serve", resources={"limits": {"nvidia.com/gpu": 1}})
    gone = applied(live, merge_operations(live, size("vllm", limits={"nvidia.com/gpu": None, "x.com/y": "1"})))
    assert engine_of(gone)["resources"]["limits"] == {"x.com/y": "1"}
    bare = workload("serve")
    made = applied(bare, merge_operations(bare, size("vllm", requests={"cpu": "1", "memory": None})))
    assert engine_of(made)["resources"] == {"requests": {"cpu": "1"}}


def test_an_hpas_percentage_is_one_field_of_its_list():
    def hpa(percent: int) -> dict[str, Any]:
        target = {"type": "Utilization", "averageUtilization": percent}
        pods = {
            "type": "Pods",
            "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}},
        }
        return {"spec": {"metrics": [pods, {"type": "Resource", "resource": {"name": "cpu", "target": target}}]}}

    operations = merge_operations(hpa(70), hpa(280))
    assert applied(hpa(70), operations) == hpa(280)
    changed = [one["path"] for one in operations if one["op"] != "test"]
    assert changed == ["/spec/metrics/1/resource/target/averageUtilization"]


def test_a_container_that_is_not_in_the_manifest_is_refused():
    with pytest.raises(NoPatchError, match="no container mesh"):
        merge_operations(workload("serve"), size("mesh", requests={"cpu": "1"}))


_QUANTITIES = st.sampled_from(["100m", "1", "2", "1Gi"])
_PARTS = st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), _QUANTITIES, max_size=3)
_CHANGES = st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.none() | _QUANTITIES, max_size=3)


@given(_PARTS, _PARTS, _CHANGES, _CHANGES)
@settings(deadline=None)
def test_operations_come_to_what_a_merge_comes_to(requests, limits, more_requests, more_limits):
    live = workload("serve", resources={"requests": requests, "limits": limits})
    after = applied(live, merge_operations(live, size("vllm", requests=more_requests, limits=more_limits)))

    def merged(old: dict[str, str], new: dict[str, str | None]) -> dict[str, str]:
        return {key: value for key, value in (old | new).items() if value is not None}

    wanted = {"requests": merged(requests, more_requests), "limits": merged(limits, more_limits)}
    assert engine_of(after)["resources"] == wanted
    assert json.dumps(after["spec"]["template"]["spec"]["containers"][0]) == json.dumps(
        live["spec"]["template"]["spec"]["containers"][0]
    )
