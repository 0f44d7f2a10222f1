"""The demonstration's processes: ended in every case, remembered, with nothing of the user's settings."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from hack.cluster.processes import identity_of
from hack.demo.errors import DemoError
from hack.demo.programs import Programs, stop_recorded

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def until(holds, seconds=10):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def programs(tmp_path):
    programs = Programs(tmp_path / "programs")
    yield programs
    programs.stop()


def test_stop_ends_everything(programs):
    started = [programs.start(name, SLEEP, {}) for name in ("one", "two")]
    programs.demand()
    programs.stop()
    assert not any(process.alive for process in started)
    assert stop_recorded(programs.folder) == 0


def test_a_killed_one_is_no_failure_and_another_takes_its_name(programs):
    first = programs.start("operator", SLEEP, {})
    programs.kill("operator")
    assert not first.alive
    programs.demand()
    second = programs.start("operator", SLEEP, {})
    assert programs["operator"].pid == second.pid != first.pid


def test_one_that_ended_by_itself_is_reported_with_its_last_words(programs):
    process = programs.start("agent", [sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], {})
    until(lambda: not process.alive)
    with pytest.raises(DemoError, match=r"(?s)agent ended;.*no such luck"):
        programs.demand()


def test_a_program_gets_its_own_settings_and_none_of_the_users(programs, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_LLM_ENABLED", "true")
    monkeypatch.setenv("KUBECONFIG", "/home/somebody/.kube/config")
    show = "import os, sys; print({k: v for k, v in os.environ.items() if k.startswith(('OPTIINFRA', 'KUBE'))})"
    process = programs.start("show", [sys.executable, "-c", show], {"OPTIINFRA_NAMESPACE": "optiinfra"})
    until(lambda: not process.alive)
    assert programs.log("show").read_text().strip() == "{'OPTIINFRA_NAMESPACE': 'optiinfra'}"


def test_what_a_broken_run_left_behind_is_ended_by_the_next(tmp_path):
    left = Programs(tmp_path, outlive=True)
    process = left.start("simulator", SLEEP, {})
    assert stop_recorded(tmp_path) == 1
    assert not process.alive
    assert stop_recorded(tmp_path) == 0


def test_a_record_whose_process_is_gone_ends_nobody(tmp_path):
    left = Programs(tmp_path, outlive=True)
    left.start("simulator", SLEEP, {}).stop(grace=0)
    assert stop_recorded(tmp_path) == 0


@pytest.mark.parametrize(("outlive", "survives"), [(False, False), (True, True)])
def test_programs_die_with_a_killed_demonstration_unless_it_is_to_be_kept(tmp_path, outlive, survives):
    script = f"""
        import time
        from pathlib import Path
        from hack.demo.programs import Programs
        process = Programs(Path({str(tmp_path)!r}), outlive={outlive}).start("simulator", {SLEEP!r}, {{}})
        time.sleep(1)
        print(process.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    try:
        if survives:
            time.sleep(0.3)
            assert identity_of(pid) is not None
        else:
            until(lambda: identity_of(pid) is None)
    finally:
        if survives:
            os.kill(pid, signal.SIGKILL)
