"""The check on real hardware, on stand-ins: its loads ask the driver for what they say, and its sums are right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hack.gpu_check.comparison import rows
from hack.gpu_check.load import COPY_BYTES, HELD_BYTES, MATRIX
from hack.gpu_check.witness import Sight
from tests.cuda_stub import build
from tests.nvml_stub import Stub

BUS_ID = "00000000:18:00.0"
SMI = """#!/bin/sh
case "$*" in *--id=GPU-00000000-*) echo "42, 1024, 77.70, [N/A]" ;; *) echo "No devices were found"; exit 6 ;; esac
"""


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cuda"))


def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def calls_of(log: Path) -> dict[str, list[tuple[int, int, int]]]:
    found: dict[str, list[tuple[int, int, int]]] = {}
    for line in log.read_text().splitlines():
        name, *numbers = line.split()
        first, second, third = map(int, numbers)
        found.setdefault(name, []).append((first, second, third))
    return found


def test_each_load_asks_the_driver_for_what_it_says(cuda: Path, tmp_path: Path) -> None:
    seen = {}
    for kind in ("spin", "multiply", "copy"):
        log = tmp_path / kind
        done = run("hack.gpu_check.load", kind, BUS_ID, "0.3", LD_LIBRARY_PATH=str(cuda), CUDA_STUB_CALLS=str(log))
        assert done.returncode == 0, done.stderr
        seen[kind] = calls_of(log)
        assert seen[kind]["alloc"] == [(HELD_BYTES, 0, 0)]
        assert seen[kind]["set"][0][2] == HELD_BYTES // 4
    assert set(seen["spin"]["spin"]) == {(100_000_000, 1, 32)}
    base = 0x700000000000
    assert set(seen["multiply"]["multiply"]) == {(base + 2 * MATRIX * MATRIX * 4, MATRIX, MATRIX * MATRIX)}
    assert 3 * MATRIX * MATRIX * 4 <= HELD_BYTES
    assert set(seen["copy"]["to"]) == {(base, 0x1000, COPY_BYTES)}
    assert set(seen["copy"]["from"]) == {(0x1000, base, COPY_BYTES)}
    assert len(seen["copy"]["to"]) == len(seen["copy"]["from"])
    assert f'"copied_bytes_each_way": {len(seen["copy"]["to"]) * COPY_BYTES}' in done.stdout


def test_a_call_that_fails_is_named(cuda: Path, tmp_path: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(cuda), "CUDA_STUB_CALLS": str(tmp_path / "calls")}
    done = run("hack.gpu_check.load", "spin", BUS_ID, "1", CUDA_STUB_FAIL="cuMemAlloc_v2", **environment)
    assert done.returncode == 1
    assert done.stderr.strip() == "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"
    done = run("hack.gpu_check.load", "spin", BUS_ID, "1")
    assert done.stderr.startswith("libcuda.so.1 does not load")


def test_the_whole_check_on_stand_ins(cuda: Path, stub: Stub, tmp_path: Path) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    stub.rules("value gpm -1 1", "value gpm_2 -1 61.5", "value utilization -1 42", "value memory_used -1 1073741824")
    environment = stub.environment
    environment["LD_LIBRARY_PATH"] += f":{cuda}"
    done = run(
        "hack.gpu_check",
        "--seconds",
        "3",
        **environment,
        PATH=f"{smi.parent}:{os.environ['PATH']}",
        CUDA_STUB_CALLS=str(tmp_path / "calls"),
    )
    assert done.returncode == 0, done.stderr
    assert "NVIDIA H100 80GB HBM3, driver 590.48.01" in done.stdout
    assert "| idle | utilisation | 0.420 | 0.420 | nvidia-smi | +0.0% |" in done.stdout
    assert "| multiply | SM activity (GPM) | 0.615 | 0.420 | utilisation | +46.4% |" in done.stdout
    assert "| copy | memory used | 1,024.0 MiB | 1,024.0 MiB | nvidia-smi | +0.0% |" in done.stdout
    # The stand-in's memory does not grow with the load, and its counters do not count: the table says so.
    assert "| spin | memory over idle | 0.0 MiB | 4,096.0 MiB | allocated | -100.0% |" in done.stdout
    assert "| copy | PCIe sent | 0.0 MiB |" in done.stdout
    assert "| `nvmlDeviceGetFieldValues` |" in done.stdout
    assert "was not run" not in done.stdout


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    done = run("hack.gpu_check", "--seconds", "1", "--out", str(tmp_path / "page.md"))
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_check: there is no GPU to check")
    assert not (tmp_path / "page.md").exists()


def test_loads_that_cannot_run_are_said_and_the_rest_is_shown(stub: Stub) -> None:
    done = run("hack.gpu_check", "--seconds", "1", **stub.environment)
    assert done.returncode == 1
    assert done.stdout.count("was not run: libcuda.so.1 does not load") == 3
    assert "| idle | power | 77.7 W | - | nvidia-smi | - |" in done.stdout


def sight(at: float, *, joules: float, watts: float | None, sent: float = 0.0) -> Sight:
    agent = {"energy_joules_total": joules, "pcie_transmit_bytes_total": sent, "memory_used_bytes": None}
    driver = {} if watts is None else {"power_watts": watts}
    return Sight(at=at, agent=agent, agent_at=1000.0 + at, driver=driver, smi={})


def test_energy_is_compared_with_power_over_the_same_time() -> None:
    seen = [sight(float(at), joules=5000.0 + 100.0 * at, watts=100.0) for at in range(6)]
    energy = next(row for row in rows("p", seen, idle_memory=None) if row.what == "energy")
    # The first look's collection may be older than the look: the sum begins with the first new one.
    assert (energy.agent, energy.other, energy.difference) == (400.0, 400.0, 0.0)
    without = [sight(float(at), joules=0.0, watts=None) for at in range(6)]
    assert next(row for row in rows("p", without, idle_memory=None) if row.what == "energy").other is None


def test_what_nobody_measured_is_no_difference() -> None:
    seen = [sight(float(at), joules=0.0, watts=1.0, sent=at * 1048576.0) for at in range(3)]
    found = {row.what: row for row in rows("p", seen, idle_memory=None, allocated=1 << 20, copied=2 << 20)}
    assert found["memory over idle"].agent is None
    assert found["memory over idle"].difference is None
    assert (found["PCIe sent"].agent, found["PCIe sent"].difference) == (2.0, 0.0)
    assert found["PCIe received"].agent is None
