"""`optiinfra replay kvcache`: the trace's format, what is refused, and the JSON that anyone can check."""

import gzip
import json

import pytest
from click.testing import CliRunner

from bench.kv_cache import made_up
from optiinfra.cli.main import main
from optiinfra.cli.replay_kvcache import TraceError, kvcache, read_trace
from optiinfra.domain.replay.prefix_cache import accesses


def write(path, requests):
    lines = [json.dumps({"timestamp": one.time * 1000.0, "hash_ids": one.blocks}) for one in requests]
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def run(*arguments):
    return CliRunner().invoke(kvcache, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def requests():
    return made_up(3, conversations=150, span=600.0)


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_the_figures_are_those_of_the_replay(tmp_path, requests, name):
    done = run(write(tmp_path / name, requests), "--blocks", 400, "--replicas", 4, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    expected = accesses(requests)
    assert found["requests"] == len(requests)
    assert found["hit_ratio"] == pytest.approx(expected.hit_ratios([400])[0])
    assert found["infinite_hit_ratio"] == pytest.approx(expected.reusable)
    assert [one["blocks"] for one in found["sizes"]] == [400, 1000, 3000, 10000, 30000, 100000]
    assert [one["routing"] for one in found["routing"]] == ["RoundRobin", "PrefixHash", "PrefixScore"]
    assert found["replicas"] == 4
    for one in found["predictions"]:
        assert one["replayed"] == pytest.approx(expected.hit_ratios([one["blocks"]])[0])
        assert 0.0 <= one["lower"] <= one["predicted"] <= one["upper"] <= 1.0


def test_people_get_tables(tmp_path, requests):
    done = run(write(tmp_path / "trace.jsonl", requests), "--blocks", "400")
    assert done.exit_code == 0
    assert "one LRU" in done.output
    assert "RoundRobin" in done.output
    assert "replayed" in done.output


def test_a_short_trace_has_no_prediction_and_says_so(tmp_path, requests):
    done = run(write(tmp_path / "trace.jsonl", requests[:2]), "--json")
    assert "TooFewSamples" in json.loads(done.output)["predictions"][0]["unknown"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "no requests"),
        (b"\n\n", "no requests"),
        (b'{"timestamp": 1}', "line 1"),
        (b'{"timestamp": 1, "hash_ids": [1]}\nnonsense', "line 2"),
        (b'{"timestamp": 1, "hash_ids": ["a"]}', "whole numbers"),
        (b'{"timestamp": 1, "hash_ids": [true]}', "whole numbers"),
        (b'{"timestamp": -1, "hash_ids": [1]}', "negative"),
        (b'{"timestamp": NaN, "hash_ids": [1]}', "negative"),
        (b'{"timestamp": 1, "hash_ids": [99999999999999999999]}', "64 bits"),
        (b"[1, 2]", "line 1"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path, content, names):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=names):
        read_trace(path)
    done = run(path)
    assert done.exit_code == 1
    assert done.output.startswith("Error: trace.jsonl")
    assert done.output.count("\n") == 1


def test_a_damaged_gzip_is_refused(tmp_path, requests):
    path = write(tmp_path / "trace.jsonl.gz", requests)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(path)
    path.write_bytes(b"plain text")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(path)


def test_requests_are_replayed_in_the_order_of_their_times(tmp_path, requests):
    path = write(tmp_path / "trace.jsonl", list(reversed(requests)))
    assert [one.time for one in read_trace(path)] == pytest.approx(sorted(one.time for one in requests))


def test_the_command_is_one_of_the_replays(tmp_path, requests):
    done = CliRunner().invoke(main, ["replay", "kvcache", str(write(tmp_path / "trace.jsonl", requests)), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["blocks"] == 3000
    assert "kvcache" in CliRunner().invoke(main, ["replay", "--help"]).output
