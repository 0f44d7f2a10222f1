"""The commands, as a person runs them."""

import json

import pytest
from click.testing import CliRunner

from optiinfra_sim.main import main, read_decisions

SCENARIO = """
services:
  - name: chat
    kind: simulated
    namespace: inference
    selector: {app: chat}
    engine: {max_num_seqs: 16, max_num_batched_tokens: 2048, step_seconds: 0.02, prefill_token_seconds: 0.0001}
    trace: {duration_seconds: 120, compression: 2}
    max_replicas: 4
"""


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_compare_says_what_was_played_and_names_every_scaler(scenario):
    result = run("compare", scenario, "--service", "chat", "--target", "8")
    assert result.exit_code == 0
    assert "seconds 0 to 120 played in 60 s (compression 2)" in result.output
    assert "HPA on requests in flight per replica, target 8, sync 15 s, stabilisation 300 s" in result.output
    assert "stabilisation 150 s" in result.output
    assert "static" in result.output


def test_compare_in_json(scenario):
    result = run("compare", scenario, "--service", "chat", "--target", "8", "--json")
    outcomes = json.loads(result.output)["outcomes"]
    assert len(outcomes) == 3
    assert all(outcome["gpu_hours"] > 0 for outcome in outcomes)


def test_compare_adds_the_decisions_of_a_record(scenario, tmp_path):
    lines = [
        {"service": "chat", "trace_seconds": None, "replicas": 9},
        {"service": "other", "trace_seconds": 1.0, "replicas": 7},
        *({"service": "chat", "trace_seconds": float(at), "replicas": 1 if at < 20 else 2} for at in range(60)),
    ]
    record = tmp_path / "record.jsonl"
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(one.time, one.replicas) for one in read_decisions(record, service="chat")] == [(0.0, 1), (20.0, 2)]
    result = run("compare", scenario, "--service", "chat", "--record", record)
    assert "decisions as they were taken" in result.output
    assert "1@0s 2@20s" in result.output


@pytest.mark.parametrize(
    "content", ["", "not json\n", '{"service": "chat"}\n', '{"service": "x", "trace_seconds": 1}\n']
)
def test_a_record_that_is_none_is_one_line(scenario, tmp_path, content):
    record = tmp_path / "record.jsonl"
    record.write_text(content)
    result = run("compare", scenario, "--service", "chat", "--record", record)
    assert result.exit_code == 1
    assert result.output.startswith("Error: record record.jsonl")
    assert result.output.count("\n") == 1


def test_an_unknown_service_and_a_bad_scenario_are_one_line(scenario, tmp_path):
    result = run("compare", scenario, "--service", "nope")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "there is: chat" in result.output
    bad = tmp_path / "bad.yaml"
    bad.write_text(SCENARIO.replace("max_num_seqs: 16", "max_num_seqs: many"))
    result = run("compare", bad, "--service", "chat")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "services.0.engine.max_num_seqs" in result.output


def test_an_impossible_engine_is_one_line():
    result = run("engine", "--max-num-seqs", "9000", "--port", "1")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "max_num_batched_tokens must not be below max_num_seqs" in result.output
    assert run("engine", "--engine", "triton").exit_code == 2


def test_serve_refuses_a_kubeconfig_that_is_none(scenario, tmp_path):
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("")
    result = run("serve", scenario, "--kubeconfig", kubeconfig, "--engine-port", "0")
    assert result.exit_code == 2
    assert "--engine-port" in result.output
