"""The local processes of the demonstration: started with their environment and a log, remembered, ended.

Each one is remembered by pid and start time (hack.cluster.processes) in a file of the state directory, so that a
demonstration left up with KEEP=1 can be ended later, and what a killed one left behind is ended by the next. The
environment is built anew: nothing of the user's own OPTIINFRA_* settings reaches a process of the demonstration.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hack.cluster.processes import Process, identity_of, last_words
from hack.demo.errors import DemoError

GRACE_SECONDS = 8.0
_FOREIGN = ("OPTIINFRA_", "ORCHESTRATOR_", "KUBECONFIG", "NODE_NAME")


@dataclass
class Programs:
    """All local processes of one demonstration. With `outlive`, they survive this process (KEEP=1)."""

    folder: Path
    outlive: bool = False
    _running: dict[str, Process] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Start a program with its output appended to its log."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bound = [] if self.outlive else [sys.executable, str(Path(__file__).with_name("bound.py"))]
        whole = [*bound, *command]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        # Everything it talks to is on this machine: a proxy set for the outside must not be asked.
        local = {"NO_PROXY": "127.0.0.0/8,localhost", "no_proxy": "127.0.0.0/8,localhost", "PYTHONUNBUFFERED": "1"}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            whole[0],
            whole,
            inherited | local | dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C reaches the demonstration, which then ends things in order
        )
        identity = identity_of(pid)
        if identity is None:
            raise DemoError(f"{name} ended at once; {last_words(self.log(name))}")
        self._running[name] = Process(name=name, pid=pid, identity=identity)
        self._write()
        return self._running[name]

    def __getitem__(self, name: str) -> Process:
        """The process of that name that was started last."""
        return self._running[name]

    def log(self, name: str) -> Path:
        """Where its output goes."""
        return self.folder / f"{name}.log"

    def demand(self) -> None:
        """Raise DemoError, with its last words, if one of them has ended by itself."""
        for name, process in self._running.items():
            if not process.alive:
                raise DemoError(f"{name} ended; {last_words(self.log(name))}")

    def kill(self, name: str) -> float:
        """End one with SIGKILL, without any chance to say goodbye; return the moment (monotonic)."""
        process = self._running.pop(name)
        process.stop(grace=0)
        self._write()
        return time.monotonic()

    def stop(self) -> None:
        """End all, the last one first."""
        for name in reversed(list(self._running)):
            self._running[name].stop(grace=GRACE_SECONDS)
            del self._running[name]
            self._write()

    def _write(self) -> None:
        content = json.dumps([asdict(process) for process in self._running.values()])
        _record(self.folder).write_text(content)


def stop_recorded(folder: Path) -> int:
    """End what an earlier demonstration with that folder left running; return how many there were."""
    try:
        items = json.loads(_record(folder).read_text())
    except FileNotFoundError:
        return 0
    processes = [Process(name=item["name"], pid=item["pid"], identity=item["identity"]) for item in items]
    alive = [process for process in processes if process.alive]
    for process in reversed(alive):
        process.stop(grace=GRACE_SECONDS)
    _record(folder).unlink()
    return len(alive)


def _record(folder: Path) -> Path:
    return folder / "processes.json"
