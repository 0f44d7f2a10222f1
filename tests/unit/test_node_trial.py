"""Whether a machine can carry a node is told in words, within a time, and never as a failure of its own."""

import contextlib
import http.server
import subprocess
import threading
import time

import pytest

from hack.cluster.errors import ClusterError
from hack.images import build, indexes
from hack.node import __main__ as command
from hack.node import trial


@pytest.fixture
def good(monkeypatch):
    """Let nothing be missing, and no step do anything."""
    monkeypatch.setattr(trial, "unmet", lambda _: [])
    monkeypatch.setattr(trial, "_too_small", list)
    monkeypatch.setattr(trial, "_steps", lambda *_: [("a step", lambda: None)])


def obstacle(**settings):
    return trial.obstacle(base=build.DEBIAN, say=lambda _: None, **settings)


def test_a_machine_on_which_every_step_works_has_no_obstacle(good):
    assert obstacle() is None


def test_what_is_missing_is_told_before_anything_is_fetched(good, monkeypatch):
    monkeypatch.setattr(trial, "unmet", lambda _: ["root is needed", "the kernel has no overlay"])
    monkeypatch.setattr(trial, "_steps", lambda *_: pytest.fail("nothing may be tried"))
    assert obstacle() == "root is needed; the kernel has no overlay"


@pytest.mark.parametrize(
    "error",
    [
        ClusterError("apt-get failed:\n  no route"),
        OSError(1, "Operation not permitted"),
        subprocess.TimeoutExpired(["buildah"], 9),
        TimeoutError("the group is busy"),
    ],
)
def test_a_step_that_fails_is_the_obstacle_in_one_line(good, monkeypatch, error):
    def fails():
        raise error

    monkeypatch.setattr(trial, "_steps", lambda *_: [("good", lambda: None), ("a mount", fails)])
    said = obstacle()
    assert said.startswith("a mount: ")
    assert "\n" not in said


def test_a_step_that_hangs_is_given_up(good, monkeypatch):
    def hangs():
        with contextlib.suppress(Exception):  # as code that tries again would
            time.sleep(60)
        pytest.fail("it was not interrupted")

    monkeypatch.setattr(trial, "_steps", lambda *_: [("a fetch", hangs)])
    assert obstacle(seconds=0.2) == "a fetch: not done within 0 s"


def test_too_little_disk_or_memory_is_an_obstacle(monkeypatch):
    monkeypatch.setattr(trial, "NEEDED_DISK", 10**18)
    monkeypatch.setattr(trial, "NEEDED_MEMORY", 10**18)
    disk, memory = trial._too_small()
    assert "of disk" in disk
    assert "of memory" in memory


def test_an_index_that_does_not_answer_is_an_obstacle(monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(indexes, "url", lambda: f"http://me:word@127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ClusterError) as caught:
        trial._ask_index()
    server.shutdown()
    server.server_close()
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(("reason", "code"), [(None, 0), ("no root", command.CANNOT)])
def test_the_command_tells_by_its_exit_code(monkeypatch, capsys, reason, code):
    monkeypatch.setattr(command.trial, "obstacle", lambda **_: reason)
    monkeypatch.setattr(command.sys, "argv", ["node", "check"])
    assert command.main() == code
    assert (reason or "can run") in capsys.readouterr().out
