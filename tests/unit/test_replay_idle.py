"""`optiinfra replay idle`: the file's format and its traps, what is refused, and figures that anyone can check."""

import contextlib
import csv
import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.idle_cases import KINDS, made_up, nab_cases
from bench.idle_rules import RULES
from optiinfra.cli.main import main
from optiinfra.cli.replay_idle import idle
from optiinfra.cli.replay_idle_source import SamplesError, read_samples
from optiinfra.domain.idle.replay import figures, idle_codes, replay, truth
from optiinfra.domain.idle.states import IDLE_STATES

HEADER = "time_s,gpu,duty,memory_bytes,power_watts,sm_active"
FILLED = 70 * 2**30


def rows(gpu, minutes, duty=0.0, *, memory=FILLED, begin=0, step=60):
    return [f"{begin + minute * step},{gpu},{duty},{memory},," for minute in range(minutes)]


def write(path, lines, header=HEADER):
    data = "\n".join([header, *lines, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def run(*arguments):
    return CliRunner().invoke(idle, [str(one) for one in arguments])


def found(path):
    done = run(path, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
def test_a_verdict_for_every_gpu_and_the_figures_of_the_file(tmp_path, name):
    lines = rows("idle", 300) + rows("busy", 300, 0.8) + rows("empty", 300, memory=0)
    document = found(write(tmp_path / name, lines))
    by_gpu = {one["gpu"]: one for one in document["gpus"]}
    assert by_gpu["idle"]["verdict"] == "IdleHeldMemory"
    assert by_gpu["idle"]["since"] == 0.0
    assert 0.85 <= by_gpu["idle"]["confidence"] <= 0.98
    assert by_gpu["idle"]["evidence"]["memory_bytes"] == FILLED
    assert by_gpu["empty"]["verdict"] == "IdleAllocatedEmpty"
    assert by_gpu["busy"]["verdict"] == "Active"
    assert by_gpu["busy"]["since"] is None
    made = document["figures"]
    assert made["precision"] == 1.0
    assert made["false_verdicts_on_busy_gpus"] == made["false_verdicts"] == 0
    # Of 269 minutes that are judged, the filled GPU misses the first 20, the empty one the first 10.
    assert made["recall"] == pytest.approx(1 - 30 / 540, abs=0.02)
    assert made["gpu_hours_freed"] == pytest.approx(made["recall"] * made["gpu_hours_idle"])


def test_order_and_repetition_of_rows_do_not_matter(tmp_path):
    lines = rows("a", 200) + rows("b", 100, 0.5) + rows("b", 200, begin=6000)
    plain = found(write(tmp_path / "plain.csv", lines))
    rng = np.random.default_rng(3)
    mixed = [lines[place] for place in rng.permutation(len(lines))]
    mixed += [line.replace(",0.0,", ",,") for line in lines[:40]]
    again = found(write(tmp_path / "mixed.csv", mixed))
    key = lambda one: one["gpu"]  # noqa: E731  used twice, here alone
    assert again["figures"] == plain["figures"]
    assert sorted(again["gpus"], key=key) == sorted(plain["gpus"], key=key)


def test_of_two_rows_of_a_moment_the_busier_counts(tmp_path):
    lines = [*rows("a", 100), "5940,a,0.9,,,"]
    (gpu,) = found(write(tmp_path / "s.csv", lines))["gpus"]
    assert gpu["reason"] == "Working"


def test_a_file_without_the_optional_columns_and_with_others(tmp_path):
    lines = [f"{minute * 60},a,0,{FILLED},x" for minute in range(120)]
    document = found(write(tmp_path / "s.csv", lines, "time_s,gpu,duty,memory_bytes,remark"))
    assert document["gpus"][0]["verdict"] == "IdleHeldMemory"
    assert document["gpus"][0]["confidence"] <= 0.9


def test_unknown_duty_is_never_idle_even_with_power_at_rest(tmp_path):
    lines = [f"{minute * 60},a,,{FILLED},70," for minute in range(600)]
    document = found(write(tmp_path / "s.csv", lines))
    assert document["gpus"][0]["verdict"] == "Unknown"
    assert document["gpus"][0]["reason"] == "ActivityUnknown"
    assert document["figures"]["precision"] is None
    assert document["figures"]["not_judged"] == 600


def test_decisions_have_a_row_a_sample_and_know_nothing_of_the_future(tmp_path):
    lines = rows("a", 150, 0.7) + rows("a", 150, begin=9000) + rows("a", 20, 0.7, begin=18000)
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    assert run(write(tmp_path / "s.csv", lines), "--decisions", whole).exit_code == 0
    assert run(write(tmp_path / "t.csv", lines[:250]), "--decisions", cut).exit_code == 0
    told = list(csv.DictReader(whole.read_text().splitlines()))
    assert len(told) == 320
    assert told[:250] == list(csv.DictReader(cut.read_text().splitlines()))
    assert set(told[0]) == {"time_s", "gpu", "state", "confidence"}
    assert told[299]["state"] == "IdleHeldMemory"
    assert told[300]["state"] not in {str(state) for state in IDLE_STATES}


def test_people_get_a_table(tmp_path):
    done = run(write(tmp_path / "s.csv", rows("gpu-a", 100)))
    assert done.exit_code == 0
    for said in ("gpu-a", "IdleHeldMemory", "precision", "recall", "false verdicts on busy GPUs: 0"):
        assert said in done.output


def test_it_is_among_the_replays():
    done = CliRunner().invoke(main, ["replay", "--help"])
    assert "idle" in done.output


@pytest.mark.parametrize(
    ("header", "line", "said"),
    [
        ("time_s,gpu,duty", "0,a,0", "no column memory_bytes"),
        ("time_s,gpu,duty,memory_bytes,duty", "0,a,0,1,0", "column duty is there twice"),
        (HEADER, "0,a,0,1", "line 2: 4 cells, 6 are expected"),
        (HEADER, ",a,0,1,,", "line 2: time_s is empty"),
        (HEADER, "0,,0,1,,", "gpu: a name"),
        (HEADER, "0,a,57,1,,", "duty 57 is not a share"),
        (HEADER, "0,a,-0.1,1,,", "duty -0.1 is negative"),
        (HEADER, "0,a,0,-5,,", "memory_bytes -5 is negative"),
        (HEADER, "0,a,0,1,inf,", "power_watts 'inf' is not a number"),
        (HEADER, "yesterday,a,0,1,,", "time_s 'yesterday' is not a number"),
        (HEADER, "0,a,0,1,,7", "sm_active 7 is not a share"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_place(tmp_path, header, line, said):
    done = run(write(tmp_path / "s.csv", [line], header))
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.csv", b"", "no column time_s"),
        ("s.csv", HEADER.encode(), "no samples"),
        ("s.csv.gz", b"not gzip", "cannot be read"),
        ("s.csv", b"\xff\xfe\x00", "is not text"),
        ("s.csv", HEADER.encode() + b"\n" + b"0," * 5000, "longer than"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    done = run(path)
    assert done.exit_code == 1
    assert said in done.output


def test_decisions_that_cannot_be_written_are_said(tmp_path):
    done = run(write(tmp_path / "s.csv", rows("a", 30)), "--decisions", tmp_path / "no" / "d.csv")
    assert done.exit_code == 1
    assert "cannot be written" in done.output


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_input_makes_a_traceback(tmp_path, content):
    path = tmp_path / "s.csv"
    path.write_bytes(HEADER.encode() + b"\n" + content)
    with contextlib.suppress(SamplesError):
        read_samples(path)


# ---- truth and figures


def gpu_history(tmp_path, lines):
    return read_samples(write(tmp_path / "h.csv", lines))


def test_truth_is_what_the_file_shows_afterwards_and_unknown_where_it_shows_nothing(tmp_path):
    history = gpu_history(tmp_path, rows("a", 60) + rows("a", 5, 0.5, begin=3600) + rows("a", 60, begin=3900))
    known = truth(history)
    assert (known[:30] == 1).all()
    assert (known[30:64] == 0).all()
    assert (known[64:94] == 1).all()
    assert (known[95:] == -1).all()


def test_holes_and_dark_moments_leave_the_truth_open_unless_work_is_seen(tmp_path):
    hole = gpu_history(tmp_path, rows("a", 20) + rows("a", 60, begin=3000))
    assert (truth(hole)[:20] == -1).all()
    dark = gpu_history(tmp_path, [*rows("a", 20), "1200,a,,1,,", *rows("a", 60, begin=1260)])
    assert (truth(dark)[:20] == -1).all()
    seen = gpu_history(tmp_path, [*rows("a", 20), "1200,a,,1,,", *rows("a", 60, 0.5, begin=1260)])
    assert (truth(seen)[:20] == 0).all()


def test_figures_count_what_they_say(tmp_path):
    history = gpu_history(tmp_path, rows("a", 60) + rows("a", 61, 0.5, begin=3600))
    made = figures(history, np.ones(121, dtype=bool), truth(history))
    assert (made.right, made.wrong, made.unjudged, made.on_busy) == (30, 90, 1, 61)
    assert made.freed_hours == pytest.approx(0.5)
    assert made.precision == pytest.approx(0.25)
    none = figures(history, np.zeros(121, dtype=bool), truth(history))
    assert (none.missed, none.recall) == (30, 0.0)


# ---- quality on synthetic GPUs, with seeds that nothing was tuned on


def played(name, seed=11):
    from dataclasses import replace

    kind = next(kind for kind in KINDS if kind.name == name)
    (case,) = made_up(seed, kinds=(replace(kind, intervals=(60.0,), days=1.0, gpus=2),))
    done = replay(case.history)
    return figures(case.history, idle_codes(done.decisions.state), truth(case.history))


@pytest.mark.parametrize(
    "name",
    [
        "idle, empty", "idle, memory held", "heart-beat of 1 %", "background of 3 %", "memory leak, idle",
        "memory with noise, idle", "training that ends", "traffic that ends", "floor of 40 % of 72 W",
        "floor of 40 % of 700 W",
    ],
)  # fmt: skip
def test_idle_gpus_are_found(name):
    made = played(name)
    assert made.precision >= 0.99
    assert made.recall >= 0.93


@pytest.mark.parametrize("name", ["busy", "bursts, pauses of 5-20 min", "every 20 min", "duty missing throughout"])
def test_gpus_at_work_are_never_called_idle(name):
    made = played(name)
    assert (made.wrong, made.on_busy) == (0, 0)


def test_a_rule_that_waits_ten_minutes_is_wrong_where_ours_is_not():
    kind = next(kind for kind in KINDS if kind.name == "bursts, pauses of 5-20 min")
    (case,) = made_up(11, kinds=(kind,))
    follows = truth(case.history)
    assert figures(case.history, RULES["max <= 5 % for 10 min"](case.history), follows).wrong > 1000


def test_cases_are_the_same_for_the_same_seed():
    one, other = (next(iter(made_up(5, kinds=KINDS[3:4]))).history for _ in range(2))
    assert np.array_equal(one.duty, other.duty)
    assert not np.array_equal(one.duty, next(iter(made_up(6, kinds=KINDS[3:4]))).history.duty)


def test_cloudwatch_files_are_read_as_duty(tmp_path):
    lines = [
        f"2014-02-14 {minute // 60:02}:{minute % 60:02}:00,{50 if minute < 300 else 0.1}" for minute in range(0, 900, 5)
    ]
    (tmp_path / "ec2_cpu_utilization_abc.csv").write_text("timestamp,value\n" + "\n".join(lines))
    (case,) = nab_cases(tmp_path)
    assert case.name.endswith("abc")
    assert case.history.duty[0] == 0.5
    assert len(case.history.time) == 180
