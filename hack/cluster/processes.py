"""Starts, watches and ends the processes of a cluster, and those only.

A process is remembered by its pid together with its start time and the boot it belongs to: pids are used
again, and a record of yesterday must never end a stranger of today. Children get a session of their own,
so that Ctrl-C in a terminal reaches the tool and not the cluster it started.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import ClusterError

POLL_SECONDS = 0.02
KILL_SECONDS = 10.0
LOG_LINES = 15
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ENDED = frozenset("ZX")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One started program."""

    name: str
    pid: int
    identity: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a child of ours does until it is collected, which happens here."""
        state, identity = _seen(self.pid)
        if identity != self.identity:
            return False
        try:
            # A program shows as a zombie while threads of it still end, and can be collected only after that: to
            # believe /proc would be too early, and nobody would ask again.
            collected, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return state not in _ENDED
        return not collected

    def stop(self, *, grace: float) -> None:
        """End it: SIGTERM, and SIGKILL after `grace` seconds (at once with a grace of zero)."""
        if grace > 0:
            self._signal(signal.SIGTERM)
            if self._wait(grace):
                return
        self._signal(signal.SIGKILL)
        if not self._wait(KILL_SECONDS):
            raise ClusterError(f"{self.name} (pid {self.pid}) did not end within {KILL_SECONDS:.0f} s of SIGKILL")

    def pause(self, *, seconds: float) -> None:
        """Let it stand still for so long; its connections stay open and nobody is told."""
        self._signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def start(name: str, command: Sequence[str], *, log: Path) -> Process:
    """Start a program with its output appended to `log`."""
    environment = dict(os.environ)
    # Everything it talks to is on this machine: a proxy set for the outside must not be asked.
    for variable in ("NO_PROXY", "no_proxy"):
        others = environment.get(variable)
        environment[variable] = ",".join(filter(None, (others, "127.0.0.0/8", "localhost")))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        command[0],
        list(command),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    identity = identity_of(pid)
    if identity is None:
        raise ClusterError(f"{name} ended at once; {last_words(log)}")
    return Process(name=name, pid=pid, identity=identity)


def identity_of(pid: int) -> str | None:
    """Return what tells a process from a later one with the same pid; None when it is gone or a zombie."""
    state, identity = _seen(pid)
    return None if state in _ENDED else identity


def _seen(pid: int) -> tuple[str, str | None]:
    """Return the state and the identity of a process or zombie; without any there is no identity."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", None
    return fields[0], f"{_BOOT.read_text().strip()}:{fields[19]}"


def last_words(log: Path) -> str:
    """Return the end of a log, for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    except FileNotFoundError:
        lines = []
    return f"the end of {log}:\n  " + "\n  ".join(lines or ["(empty)"])
