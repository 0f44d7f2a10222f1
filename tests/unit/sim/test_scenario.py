"""The scenario file: what it means, and that a bad one is one clear line."""

import pytest
import yaml

from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.scenario import locate, read_scenario
from optiinfra_sim.settings import EngineSettings

GOOD = {
    "services": [
        {
            "name": "chat",
            "kind": "simulated",
            "namespace": "inference",
            "selector": {"app": "chat"},
            "engine": {"max_num_seqs": 32},
            "trace": {"duration_seconds": 60, "compression": 2, "load": 1.5},
        },
        {"name": "idle", "kind": "idle", "namespace": "inference", "selector": {"app": "idle"}},
        {"name": "old", "kind": "recorded", "namespace": "inference", "selector": {"app": "old"}},
    ]
}


def written(tmp_path, content):
    path = tmp_path / "scenario.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def changed(index, **changes):
    services = [dict(service) for service in GOOD["services"]]
    services[index] |= changes
    return {"services": services}


def test_a_good_file_is_read(tmp_path):
    path = written(tmp_path, GOOD)
    scenario = read_scenario(path)
    assert [service.kind for service in scenario.services] == ["simulated", "idle", "recorded"]
    chat = scenario.simulated("chat")
    assert chat.engine.settings() == EngineSettings(max_num_seqs=32)
    assert [point.factor for point in chat.trace.load] == [1.5]
    load = chat.load(folder=tmp_path)
    assert load.horizon_seconds == 60
    assert max(arrival.at for arrival in load.arrivals) <= 30


def test_json_is_read_as_well(tmp_path):
    path = written(
        tmp_path, '{"services": [{"name": "a", "kind": "idle", "namespace": "n", "selector": {"app": "a"}}]}'
    )
    assert read_scenario(path).services[0].name == "a"


def test_what_was_done_to_the_trace_is_said():
    from optiinfra_sim.scenario import TraceModel

    said = TraceModel(start_seconds=30, duration_seconds=720, compression=4, load=2.0).describe()
    assert "seconds 30 to 750" in said
    assert "in 180 s (compression 4)" in said
    assert "x2" in said
    assert "lengths unchanged" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("services: [", "not YAML"),
        ("", "scenario"),
        ({"services": []}, "services"),
        (changed(0, kind="quantum"), "services.0"),
        (changed(0, selector={}), "services.0.selector"),
        (changed(0, namespace="Inference"), "services.0.namespace"),
        (changed(0, engine={"max_num_seqs": 0}), "services.0.engine.max_num_seqs"),
        (changed(0, engine={"num_blocks": 5}), "services.0.engine: Value error, num_blocks 5"),
        (changed(0, engine={"blocksize": 5}), "services.0.engine.blocksize"),
        (changed(0, trace={"compression": 0}), "services.0.trace.compression"),
        (changed(0, trace={"compression": float("nan")}), "services.0.trace.compression"),
        (changed(0, trace={"load": [{"at": 5, "factor": 1}, {"at": 5, "factor": 2}]}), "services.0.trace.load"),
        (changed(0, trace={"load": []}), "services.0.trace.load"),
        (changed(0, initial_replicas=20), "services.0: Value error, min_replicas <= initial_replicas"),
        (changed(1, trace={}), "services.1.trace"),
        (changed(1, name="chat"), "two services"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_field(tmp_path, content, said):
    with pytest.raises(ScenarioError) as caught:
        read_scenario(written(tmp_path, content))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_found_beside_the_scenario_or_in_the_package(tmp_path):
    (tmp_path / "mine.csv").write_text("x")
    assert locate("mine.csv", folder=tmp_path, kind="traces", ending=".csv.gz") == tmp_path / "mine.csv"
    bundled = locate("bundled:azure-conversation", folder=tmp_path, kind="traces", ending=".csv.gz")
    assert bundled.name == "azure-conversation.csv.gz"
    for missing in ("none.csv", "bundled:none", "bundled:../traces/azure-conversation"):
        with pytest.raises(ScenarioError, match="not found"):
            locate(missing, folder=tmp_path, kind="traces", ending=".csv.gz")


def test_the_demo_scenario_has_its_three_services(demo_scenario):
    scenario = read_scenario(demo_scenario)
    assert [(service.name, service.kind) for service in scenario.services] == [
        ("chat", "simulated"),
        ("embed-idle", "idle"),
        ("summarize", "recorded"),
    ]
    assert all(service.namespace == "inference" for service in scenario.services)
    assert scenario.simulated("chat").startup_seconds == 15
    with pytest.raises(ScenarioError, match="there is: chat"):
        scenario.simulated("summarize")
