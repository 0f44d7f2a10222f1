"""CPU, memory and pressure: the parsers on fixture folders, and what each kind of damage becomes."""

from pathlib import Path

import pytest

from optiinfra_agent.cpu import CpuCollector, CpuTime, parse_load, utilization
from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceError,
    SourceFailedError,
    SourceUnavailableError,
    SourceUnsupportedError,
)
from optiinfra_agent.memory import MemoryCollector, parse_memory
from optiinfra_agent.pressure import PressureCollector, parse_pressure
from optiinfra_agent.procfs import LIMIT, read_text
from optiinfra_agent.snapshot import Reason, Unknown


def test_first_cpu_reading_is_warming_up(procfs: Path) -> None:
    reading = CpuCollector(procfs).collect()
    assert reading.cores == 2
    # user + nice + system + irq + softirq + steal; guest is already within user, and iowait is idle.
    assert reading.busy_seconds_total == pytest.approx((1000 + 100 + 500 + 50 + 50 + 100) / 100)
    assert reading.load1 == 3.2
    assert reading.utilization_ratio == Unknown(Reason.WARMING_UP)
    assert (reading.user_seconds_total, reading.system_seconds_total, reading.steal_seconds_total) == (11.0, 6.0, 1.0)
    assert (reading.idle_seconds_total, reading.iowait_seconds_total) == (80.0, 2.0)


def test_second_cpu_reading_has_the_share_in_between(procfs: Path) -> None:
    collector = CpuCollector(procfs)
    collector.collect()
    stat = (procfs / "stat").read_text()
    (procfs / "stat").write_text(stat.replace("cpu  1000 100 500 8000", "cpu  1030 100 500 8070"))
    assert collector.collect().utilization_ratio == pytest.approx(0.3)


def test_load_that_is_missing_leaves_the_counters(procfs: Path) -> None:
    (procfs / "loadavg").unlink()
    reading = CpuCollector(procfs).collect()
    assert reading.load1 == Unknown(Reason.UNAVAILABLE)
    assert reading.cores == 2


def cpu_time(*, busy: float, total: float) -> CpuTime:
    return CpuTime(user=busy, system=0.0, steal=0.0, idle=total - busy, iowait=0.0)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (cpu_time(busy=20, total=120), 0.5),
        (cpu_time(busy=10, total=120), 0.0),
        (cpu_time(busy=10, total=100), Unknown(Reason.FAILED)),
        (cpu_time(busy=5, total=120), Unknown(Reason.FAILED)),
        (cpu_time(busy=40, total=120), 1.0),
    ],
)
def test_utilization(now: CpuTime, expected: float | Unknown) -> None:
    assert utilization(cpu_time(busy=10, total=100), now) == expected


@pytest.mark.parametrize("text", ["", "x 1 2", "nan 0 0", "inf 0 0", "-1 0 0"])
def test_load_that_is_none(text: str) -> None:
    with pytest.raises(SourceFailedError):
        parse_load(text)


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu  a b c d e f g\n", "nothing here\n"])
def test_cpu_counters_that_are_not_understood(procfs: Path, text: str) -> None:
    (procfs / "stat").write_text(text)
    with pytest.raises(SourceFailedError, match="not understood"):
        CpuCollector(procfs).collect()


def test_memory(procfs: Path) -> None:
    reading = MemoryCollector(procfs).collect()
    assert reading.total_bytes == 16000 * 1024
    assert reading.available_bytes == 10000 * 1024
    assert reading.used_bytes == 6000 * 1024
    assert reading.swap_total_bytes == 2000 * 1024
    assert reading.swap_used_bytes == 500 * 1024


def test_memory_of_an_old_kernel_is_unknown_not_zero() -> None:
    reading = parse_memory("MemTotal: 16000 kB\nMemFree: 1000 kB\n")
    assert reading.total_bytes == 16000 * 1024
    assert reading.available_bytes == Unknown(Reason.UNSUPPORTED)
    assert reading.used_bytes == Unknown(Reason.UNSUPPORTED)
    assert reading.swap_used_bytes == Unknown(Reason.UNSUPPORTED)


def test_more_memory_available_than_there_is() -> None:
    assert parse_memory("MemTotal: 10 kB\nMemAvailable: 11 kB\n").used_bytes == Unknown(Reason.FAILED)


@pytest.mark.parametrize("text", ["", "MemTotal: 0 kB\n", "MemTotal: many kB\n", "MemTotal: 5 MB\n"])
def test_memory_without_total(text: str) -> None:
    with pytest.raises(SourceFailedError, match="MemTotal"):
        parse_memory(text)


def test_pressure(procfs: Path) -> None:
    reading = PressureCollector(procfs).collect()
    assert reading.cpu_some_ratio == 0.125
    assert (reading.memory_some_ratio, reading.memory_full_ratio) == (0.01, 0.005)
    assert (reading.io_some_ratio, reading.io_full_ratio) == (0.4, 0.2)


def test_kernel_without_pressure_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(SourceUnsupportedError):
        PressureCollector(tmp_path).collect()


def test_one_pressure_file_missing_leaves_the_others(procfs: Path) -> None:
    (procfs / "pressure" / "io").unlink()
    reading = PressureCollector(procfs).collect()
    assert reading.io_some_ratio == Unknown(Reason.UNSUPPORTED)
    assert reading.cpu_some_ratio == 0.125


def test_pressure_of_an_old_kernel_has_no_full_line(procfs: Path) -> None:
    (procfs / "pressure" / "memory").write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n")
    assert PressureCollector(procfs).collect().memory_full_ratio == Unknown(Reason.UNSUPPORTED)


@pytest.mark.parametrize("text", ["", "\n\n", "some\n", "some avg10=x\n", "some avg10=nan\n", "some avg10=101\n"])
def test_pressure_that_is_not_understood(text: str) -> None:
    with pytest.raises(SourceFailedError):
        parse_pressure(text)


@pytest.mark.parametrize("damage", ["missing", "folder", "large", "binary"])
def test_every_way_a_file_can_fail(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file"
    expected: type[SourceError] = SourceFailedError
    if damage == "missing":
        expected = SourceUnavailableError
    elif damage == "folder":
        path.mkdir()
    elif damage == "large":
        path.write_bytes(b"a" * (LIMIT + 1))
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(expected):
        read_text(path)


def test_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom no mode keeps out.
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceDeniedError):
        read_text(tmp_path / "stat")
