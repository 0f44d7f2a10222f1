"""`optiinfra replay rightsizing`: its files, what is refused, and figures that anyone can recompute from decisions."""

import csv
import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner

from optiinfra.cli.main import main
from optiinfra.cli.replay_rightsizing import rightsizing
from optiinfra.cli.replay_rightsizing_source import UsageFileError, read_usage

DAY = 86_400
HEADER = "time_s,container,cpu_cores,memory_bytes"


def run(*arguments):
    return CliRunner().invoke(rightsizing, [str(one) for one in arguments])


def rows_of(days=6, step=900, seed=1):
    draw = np.random.default_rng(seed)
    for time in range(0, days * DAY, step):
        for name, level in (("a", 1.0), ("b", 4.0)):
            cpu = "" if draw.random() < 0.02 else f"{level * draw.gamma(4.0, 0.25):.5f}"
            memory = "" if draw.random() < 0.02 else f"{level * 1e9 * draw.gamma(20.0, 0.05):.0f}"
            yield time, name, cpu, memory


def write(path, rows, header=HEADER):
    text = "\n".join([header, *(",".join(str(field) for field in row) for row in rows)]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["use.csv", "use.csv.gz"])
def test_the_figures_can_be_recomputed_from_the_two_files_alone(tmp_path, name):
    rows, out = list(rows_of()), tmp_path / "out.csv"
    done = run(write(tmp_path / name, rows), "--decisions", out, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    with out.open() as file:
        decisions = list(csv.DictReader(file))
    assert list(decisions[0]) == ["time_s", "container", "cpu_request_cores", "memory_request_bytes"]
    assert {float(one["time_s"]) % DAY for one in decisions} == {0.0}
    asked = {(int(float(one["time_s"])) // DAY, one["container"]): one for one in decisions}
    assert len(asked) == found["decisions"] == 10
    above = known = 0
    peaks: dict[tuple[int, str], float] = {}
    for time, container, cpu, memory in rows:
        request = asked.get((time // DAY, container))
        if request is None:
            continue
        if cpu:
            known += 1
            above += float(cpu) > float(request["cpu_request_cores"])
        if memory:
            peaks[time // DAY, container] = max(peaks.get((time // DAY, container), 0.0), float(memory))
    killed = sum(peak > float(asked[key]["memory_request_bytes"]) for key, peak in peaks.items())
    assert found["cpu_over_time"] == pytest.approx(above / known)
    assert found["oom_days_per_100"] == pytest.approx(100.0 * killed / len(peaks))
    mean = np.mean([float(one["cpu_request_cores"]) for one in decisions])
    assert found["cpu_request_cores"] == pytest.approx(mean)
    assert set(found["baselines"]) == {"VPA", "KRR", "KRR p99, memory +30 %", "perfect knowledge"}


def test_decisions_see_nothing_of_their_own_day(tmp_path):
    rows = list(rows_of())
    late = [
        (time, name, "9" if time >= 5 * DAY else cpu, "9e9" if time >= 5 * DAY else used)
        for time, name, cpu, used in rows
    ]
    texts = []
    for name, content in (("one.csv", rows), ("two.csv", late)):
        done = run(write(tmp_path / name, content), "--decisions", tmp_path / f"{name}.out")
        assert done.exit_code == 0, done.output
        texts.append((tmp_path / f"{name}.out").read_text())
    assert texts[0] == texts[1]


def test_rows_in_any_order_give_the_same(tmp_path):
    rows = list(rows_of())
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    run(write(tmp_path / "a.csv", rows), "--decisions", one)
    run(write(tmp_path / "b.csv", sorted(rows, key=lambda row: (row[1], -row[0]))), "--decisions", two)
    assert sorted(one.read_text().splitlines()) == sorted(two.read_text().splitlines())


def test_of_several_pods_at_one_moment_the_busiest_counts(tmp_path):
    rows = [
        (time, "a", cpu, used)
        for time in range(0, 3 * DAY, 3600)
        for cpu, used in (("1", ""), ("3", "5e9"), ("", "1e9"))
    ]
    one = write(tmp_path / "pods.csv", rows)
    other = write(tmp_path / "most.csv", [(time, "a", "3", "5e9") for time in range(0, 3 * DAY, 3600)])
    merged, plain = (json.loads(run(path, "--json").output) for path in (one, other))
    assert merged["merged_samples"] == 2 * 72
    assert "144 samples merged" in run(one).output
    assert merged["cpu_request_cores"] == plain["cpu_request_cores"]
    assert merged["memory_request_bytes"] == plain["memory_request_bytes"]


def test_what_was_never_measured_stays_empty(tmp_path):
    rows = [(time, "a", "1", "") for time in range(0, 3 * DAY, 3600)]
    done = run(write(tmp_path / "use.csv", rows), "--decisions", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert len(lines) == 2
    assert all(line.endswith(",") and not line.endswith(",,") for line in lines)


def test_a_stricter_quantile_reserves_more_and_is_exceeded_less(tmp_path):
    path = write(tmp_path / "use.csv", rows_of(days=12))
    loose, strict = (json.loads(run(path, "--cpu-quantile", share, "--json").output) for share in ("0.9", "0.999"))
    assert loose["cpu_request_cores"] < strict["cpu_request_cores"]
    assert loose["cpu_over_time"] > strict["cpu_over_time"]
    assert loose["memory_request_bytes"] == strict["memory_request_bytes"]


def test_shares_are_told_of_what_is_provisioned(tmp_path):
    path = write(tmp_path / "use.csv", rows_of())
    given = write(tmp_path / "given.csv", [("a", 8, 64e9), ("b", 8, 64e9)], header="container,cpu_cores,memory_bytes")
    found = json.loads(run(path, "--provisioned", given, "--json").output)
    assert found["cpu_provisioned"] == pytest.approx(found["cpu_request_cores"] / 8.0)
    assert found["memory_provisioned"] == pytest.approx(found["memory_request_bytes"] / 64e9)
    assert "of given" in run(path, "--provisioned", given).output
    assert json.loads(run(path, "--json").output)["cpu_provisioned"] is None


def test_a_file_of_one_day_has_no_decision_and_no_figure(tmp_path):
    done = run(write(tmp_path / "use.csv", rows_of(days=1)), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["decisions"] == 0
    assert found["cpu_over_time"] is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0,a,-1,5", "cpu_cores '-1' must be a number from 0"),
        ("0,a,1,-5", "memory_bytes '-5' must be a number from 0"),
        ("0,a,nan,5", "cpu_cores 'nan'"),
        ("0,a,1,inf", "memory_bytes 'inf'"),
        ("0,a,x,5", "cpu_cores 'x'"),
        (",a,1,5", "time_s ''"),
        ("-5,a,1,5", "time_s '-5'"),
        ("0,,1,5", "container is empty"),
        ("0,a,1", "3 fields"),
        ("0,a,1,5,6", "5 fields"),
        ("0,a," + "1" * 5000 + ",5", "longer than"),
    ],
)
def test_a_bad_line_is_one_clear_error(tmp_path, line, said):
    path = tmp_path / "use.csv"
    path.write_text(f"{HEADER}\n0,b,1,5\n{line}\n")
    done = run(path)
    assert done.exit_code == 1
    assert said in done.output
    assert "line 3" in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the first line must read"),
        (b"time,container,cpu,memory\n", "the first line must read"),
        (f"{HEADER}\n".encode(), "no rows"),
        (f"{HEADER}\n0,a,1,1\n900000000000,a,1,1\n".encode(), "seconds are expected"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_one_clear_error(tmp_path, content, said):
    path = tmp_path / "use.csv"
    path.write_bytes(content)
    done = run(path)
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_broken_archive_is_one_clear_error(tmp_path):
    path = tmp_path / "use.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode())[:-9])
    with pytest.raises(UsageFileError, match="cannot be read"):
        read_usage(path)


@pytest.mark.parametrize("line", ["a,0,5", "a,1", ",1,5", "a,1,x", "b,1,5\nb,1,5"])
def test_a_bad_line_of_what_is_provisioned_is_one_clear_error(tmp_path, line):
    path, given = write(tmp_path / "use.csv", rows_of(days=2)), tmp_path / "given.csv"
    given.write_text(f"container,cpu_cores,memory_bytes\n{line}\n")
    done = run(path, "--provisioned", given)
    assert done.exit_code == 1
    assert "given.csv, line" in done.output


def test_decisions_that_cannot_be_written_are_said(tmp_path):
    done = run(write(tmp_path / "use.csv", rows_of(days=2)), "--decisions", tmp_path / "none" / "out.csv")
    assert done.exit_code == 1
    assert "cannot be written" in done.output


def test_it_is_a_command_of_replay(tmp_path):
    done = CliRunner().invoke(main, ["replay", "rightsizing", str(write(tmp_path / "use.csv", rows_of()))])
    assert done.exit_code == 0, done.output
    assert "over-time" in done.output
    assert "perfect knowledge" in done.output
