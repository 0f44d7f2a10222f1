"""The command's figures are checked by another program: its file is replayed here with nothing of the operator's."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from optiinfra.cli.main import main

DATA = Path(__file__).resolve().parents[2] / "bench" / "data" / "openb"
NODES, PODS = DATA / "nodes.csv.gz", DATA / "pods_gpuspec25.csv.gz"


def run(*arguments: object, nodes: Path = NODES, pods: Path = PODS) -> dict:
    command = ["replay", "consolidation", "--nodes", nodes, "--pods", pods, "--json", *arguments]
    result = CliRunner().invoke(main, [str(one) for one in command])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refusal(*arguments: object, nodes: Path = NODES, pods: Path = PODS) -> str:
    command = ["replay", "consolidation", "--nodes", nodes, "--pods", pods, *arguments]
    result = CliRunner().invoke(main, [str(one) for one in command])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1
    return result.output


def rows(path: Path) -> list[dict[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(data.decode().splitlines()))


def resimulate(placements: Path, *, nodes: Path, pods: Path) -> tuple[float | None, float, float]:
    """Replay a file of placements row by row; fails where anything is given twice. Returns the three figures."""
    machine = {row["sn"]: row for row in rows(nodes)}
    wanted = {row["name"]: row for row in rows(pods)}
    cpu = {name: int(row["cpu_milli"]) for name, row in machine.items()}
    memory = {name: int(row["memory_mib"]) for name, row in machine.items()}
    devices = {name: [1000] * int(row["gpu"]) for name, row in machine.items()}
    capacity = sum(1000 * len(one) for one in devices.values())
    asked = allocated = 0
    at_100 = None
    seen, used = set(), set()
    for row in rows(placements):
        assert row["pod"] not in seen
        seen.add(row["pod"])
        pod = wanted[row["pod"].partition("~")[0]]
        count = int(pod["num_gpu"])
        milli = int(pod["gpu_milli"]) if count else 0
        asked += count * milli
        if row["node"]:
            name = row["node"]
            taken = [int(one) for one in row["gpu_devices"].split(";") if one]
            assert len(taken) == len(set(taken)) == count
            if count and pod.get("gpu_spec"):
                assert machine[name]["model"] in pod["gpu_spec"].split("|")
            cpu[name] -= int(pod["cpu_milli"])
            memory[name] -= int(pod["memory_mib"])
            for device in taken:
                devices[name][device] -= milli
                assert devices[name][device] >= 0
            assert cpu[name] >= 0
            assert memory[name] >= 0
            used.add(name)
            allocated += count * milli
        else:
            assert not row["gpu_devices"]
        if at_100 is None and asked >= capacity:
            at_100 = allocated / capacity
    size = sum(1000 * len(devices[name]) for name in used)
    return at_100, allocated / capacity, 1 - sum(sum(devices[name]) for name in used) / size


@pytest.mark.parametrize("pods", ["pods_default.csv.gz", "pods_gpuspec25.csv.gz"])
@pytest.mark.parametrize("load", ["1.3", "0.5"])
def test_the_file_gives_the_printed_figures(tmp_path, pods, load):
    out = tmp_path / "out.csv"
    found = run("--load", load, "--placements", out, pods=DATA / pods)
    at_100, end, active = resimulate(out, nodes=NODES, pods=DATA / pods)
    assert found["gpu_allocated_at_100"] == pytest.approx(at_100)
    assert found["gpu_allocated_end"] == pytest.approx(end)
    assert found["active_gpu_utilization"] == pytest.approx(active)
    assert len(rows(out)) == found["pods"]
    assert sum(not row["node"] for row in rows(out)) == found["dropped"]
    if load == "1.3":
        assert found["moves_per_pod"] == 0.0
        assert any("~2" in row["pod"] for row in rows(out))
    else:
        assert found["gpu_allocated_at_100"] is None
        assert found["moves_per_pod"] <= 0.1


def test_what_is_left_after_churn_fits_too_and_the_budget_of_moves_holds(tmp_path):
    pods, out = DATA / "pods_default.csv.gz", tmp_path / "out.csv"
    arguments = ("--load", "0.3", "--churn-hours", "12", "--lifetime", "4", "--moves-per-pod", "0.05")
    found = run(*arguments, "--placements", out, pods=pods)
    assert 0.0 < found["moves_per_pod"] <= 0.06
    assert found["churn"]["hours"] == 8
    assert found["churn"]["arrived"] > 100
    quiet = run(*arguments[:-1], "0", pods=pods)
    assert quiet["moves"] == 0
    assert quiet["active_gpu_utilization"] < found["active_gpu_utilization"]


def test_seeds_are_repeatable_and_matter(tmp_path):
    one, two, other = (tmp_path / name for name in ("one.csv", "two.csv", "other.csv"))
    for path, seed in ((one, 7), (two, 7), (other, 8)):
        run("--load", "0.4", "--seed", seed, "--placements", path)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()


def test_ours_is_not_below_the_published_score_on_either_list():
    for pods in (DATA / "pods_default.csv.gz", DATA / "pods_gpuspec25.csv.gz"):
        figures = {
            rule: sum(run("--rule", rule, "--seed", seed, pods=pods)["gpu_allocated_at_100"] for seed in (42, 43, 44))
            for rule in ("optiinfra", "fgd")
        }
        assert figures["optiinfra"] >= figures["fgd"]


def test_plain_files_without_a_model_column_for_pods_are_read(tmp_path):
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn0,8000,1024,2,T4\nn1,8000,1024,0,\n")
    pods.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1000,10,1,500\nb,1000,10,1,1000\nc,1000,10,0,0\n")
    out = tmp_path / "out.csv"
    found = run("--load", "1.0", "--placements", out, nodes=nodes, pods=pods)
    assert resimulate(out, nodes=nodes, pods=pods) == (1.0, 1.0, 1.0) or found["dropped"]
    assert found["gpus"] == 2.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,1000,10,1", "fewer cells"),
        ("a,-1,10,1,500", "cpu_milli '-1'"),
        ("a,1e3,10,1,500", "cpu_milli '1e3'"),
        ("a,1000,nan,1,500", "memory_mib 'nan'"),
        ("a,1000,10,65,1000", "num_gpu '65'"),
        ("a,1000,10,2,500", "only a single GPU can be shared"),
        ("a,1000,10,1,1001", "gpu_milli '1001'"),
        ("a,1000,10,1,0", "gpu_milli 0"),
        (",1000,10,1,500", "a name that no other row has"),
        ("b,1000,10,1,500\nb,1000,10,1,500", "a name that no other row has"),
        ("", "no rows"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, line, words):
    pods = tmp_path / "pods.csv"
    pods.write_text(f"name,cpu_milli,memory_mib,num_gpu,gpu_milli\n{line}\n")
    told = refusal(pods=pods)
    assert words in told
    assert "pods.csv" in told


def test_files_that_are_something_else_are_refused(tmp_path):
    other = tmp_path / "other.csv.gz"
    other.write_bytes(b"not gzip")
    assert "cannot be read" in refusal(pods=other)
    plain = tmp_path / "plain.csv"
    plain.write_text("a,b\n1,2\n")
    assert "no column sn, cpu_milli" in refusal(nodes=plain)
    plain.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,1,0,0\n")
    assert "asks for 0 GPUs" in refusal(pods=plain)
    assert "more than one mean lifetime" in refusal("--load", "0.1", "--churn-hours", "3")


def test_people_read_a_short_table():
    command = ["replay", "consolidation", "--nodes", str(NODES), "--pods", str(PODS), "--load", "0.2"]
    told = CliRunner().invoke(main, command).output
    assert "GPUs allocated on nodes in use" in told
    assert "GPUs allocated when all were asked for  -" in told
