"""The demonstration's command: whose folder it may empty, and what it says when it may not begin."""

import json
import socket
import subprocess
import sys

import pytest

from hack.cluster.processes import identity_of
from hack.demo.__main__ import MARK, clean
from hack.demo.errors import DemoError
from hack.demo.programs import Programs
from hack.demo.report import shortened

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def run(*arguments):
    command = [sys.executable, "-m", "hack.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def mark(folder, pid, identity):
    folder.mkdir(exist_ok=True)
    (folder / MARK).write_text(json.dumps({"name": "demonstration", "pid": pid, "identity": identity}))


def test_down_ends_what_was_left_up_and_forgets_it(tmp_path):
    folder = tmp_path / "demo"
    mark(folder, pid=2**22 - 1, identity="gone")
    process = Programs(folder / "programs", outlive=True).start("operator", SLEEP, {})
    answer = run("down", f"--dir={folder}")
    assert (answer.stdout, answer.returncode) == ("down\n", 0)
    assert not process.alive
    assert not folder.exists()
    assert "nothing to end" in run("down", f"--dir={folder}").stdout


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DemoError, match=r"is not empty and not of a demonstration: choose another --dir"):
        clean(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_demonstration_that_plays_is_not_ended_by_another(tmp_path):
    with subprocess.Popen(SLEEP) as other:
        try:
            mark(tmp_path, pid=other.pid, identity=identity_of(other.pid))
            with pytest.raises(DemoError, match=rf"plays in .* already \(pid {other.pid}\)"):
                clean(tmp_path)
        finally:
            other.kill()
    assert clean(tmp_path) is False
    assert not tmp_path.exists()


def test_a_named_port_that_is_taken_is_one_clear_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = run(f"--dir={tmp_path / 'demo'}", f"--agent-port={port}")
    assert answer.returncode == 1
    assert answer.stderr == (
        f"error: port {port} (the agents' port) is taken: free it, or name another one with --agent-port\n"
    )


def test_selectors_of_events_are_written_as_people_write_them():
    selector = (
        "&LabelSelector{MatchLabels:map[string]string{optiinfra.io/name: chat,},"
        "MatchExpressions:[]LabelSelectorRequirement{},}"
    )
    assert (
        shortened(f"external metric m({selector}) above target")
        == "external metric m{optiinfra.io/name: chat} above target"
    )
    assert shortened(f"inference/m/{selector}: no metrics") == "inference/m{optiinfra.io/name: chat}: no metrics"
    assert shortened("All metrics below target") == "All metrics below target"
