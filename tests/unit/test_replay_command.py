"""`optiinfra replay scaling`: its figures can be computed again from its decisions, and bad input is named."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from optiinfra.cli.main import main
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import Fleet, play


def write(path, work, *, step=5.0):
    rows = "".join(f"{index * step:g},{value:.6g}\n" for index, value in enumerate(work))
    path.write_text(f"time_s,work\n{rows}")
    return path


def call(*arguments):
    return CliRunner().invoke(main, ["replay", "scaling", *map(str, arguments)])


@pytest.fixture(name="load")
def the_load(tmp_path):
    steps = np.arange(2880)
    return write(tmp_path / "load.csv", 4000 + 2500 * np.sin(steps / 300.0) + 500 * (steps % 7))


def test_the_decisions_simulated_again_give_the_printed_figures(load, tmp_path):
    out = tmp_path / "decisions.csv"
    told = call(load, "--replica-capacity", 1000, "--startup", "3m", "--decisions", out, "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    with out.open() as lines:
        asked = [int(row["replicas"]) for row in csv.DictReader(lines)]
    with load.open() as lines:
        work = np.array([float(row["work"]) for row in csv.DictReader(lines)])[None] / 1000.0
    fleet = Fleet(
        work,
        start_up_s=np.array([180.0]),
        initial=np.array([document["initial"]]),
        minimum=np.array([1]),
        maximum=np.array([10_000]),
    )
    again = Ledger.of(play(fleet, lambda view: np.array([asked[view.sync]]))).figures()[0]
    for name in ("cost", "late10", "late60", "incidents", "actions_per_day"):
        assert getattr(again, name) == pytest.approx(document[name]), name
    assert document["decisions"] == 960
    assert [one["target"] for one in document["hpa"]] == [0.5, 0.7, 0.8]


def test_the_summary_shows_plain_hpas_beside_it(load):
    told = call(load, "--replica-capacity", 1000, "--startup", "60", "--count-from", "1h")
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0].startswith("0.12 days counted")
    assert [line.split("  ")[0] for line in lines[2:6]] == ["OptiInfra", "HPA at 0.5", "HPA at 0.7", "HPA at 0.8"]
    assert "not measured" in lines[-1]


def test_limits_hold(load, tmp_path):
    out = tmp_path / "decisions.csv"
    told = call(
        load, "--replica-capacity", 1000, "--startup", "60s", "--min", 3, "--max", 6, "--initial", 1, "--decisions", out
    )
    assert told.exit_code == 0, told.output
    asked = [int(line.split(",")[1]) for line in out.read_text().splitlines()[1:]]
    assert min(asked) >= 3
    assert max(asked) == 6


def test_steps_of_a_minute_and_of_a_second_are_brought_to_five_seconds(tmp_path):
    arguments = ("--replica-capacity", 10, "--startup", "60s", "--json")
    minutes = json.loads(call(write(tmp_path / "a.csv", [30.0, 50.0] * 10, step=60.0), *arguments).stdout)
    seconds = np.repeat([30.0, 50.0] * 10, 60)
    assert json.loads(call(write(tmp_path / "b.csv", seconds, step=1.0), *arguments).stdout)["cost"] == minutes["cost"]


def test_the_page_stands_alone(load, tmp_path):
    plot = tmp_path / "page.html"
    assert call(load, "--replica-capacity", 1000, "--startup", "60s", "--plot", plot).exit_code == 0
    text = plot.read_text()
    assert text.count("<polyline") == 9
    assert "http" not in text
    assert "HPA at 0.7" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n0,1\n", "the first line must read time_s,work"),
        ("time_s,work\n0,1\n", "at least two rows"),
        ("time_s,work\n0,1\n5,x\n", "line 3: two numbers"),
        ("time_s,work\n0,1\n5,-1\n", "line 3: work must be"),
        ("time_s,work\n0,1\n5,nan\n", "line 3: work must be"),
        ("time_s,work\n0,1\n5,1\n15,1\n", "line 4: time_s must go up in equal steps"),
        ("time_s,work\n0,1\n7,1\n", "a multiple or a part of 5 s"),
        ("time_s,work\n0,1e9\n5,1\n", "give --replica-capacity in its unit"),
    ],
)
def test_a_load_that_cannot_be_replayed_is_named(tmp_path, text, said):
    path = tmp_path / "load.csv"
    path.write_text(text)
    told = call(path, "--replica-capacity", 1, "--startup", "60s")
    assert told.exit_code == 1
    assert said in told.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--startup", "soon"), "is not a duration"),
        (("--startup", "60s", "--min", "5", "--max", "4"), "--min is above --max"),
        (("--startup", "60s", "--plot", "x.gif"), "--plot writes .html or .png"),
        (("--startup", "60s", "--count-from", "9d"), "nothing is left to count"),
    ],
)
def test_options_that_cannot_be_are_named(load, arguments, said):
    told = call(load, "--replica-capacity", "1000", *arguments)
    assert told.exit_code != 0
    assert said in told.stderr
