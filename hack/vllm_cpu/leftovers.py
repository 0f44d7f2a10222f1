"""Processes of an engine that outlived the tool, and the lock that keeps two runs out of one folder.

A tool that is killed takes the engine's front process with it, but not the workers that this one started. They are
known by their environment, which names the tool's folder and which only this tool's processes inherit; pids and names
would not do, for pids are used again and the workers rename themselves.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hack.vllm_cpu.cache import Cache
from hack.vllm_cpu.errors import CacheError, ServerError

MARK: Final = "OPTIINFRA_VLLM_CPU_FOLDER"
"""Variable in the environment of every process of an engine."""
_GONE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


def mark(cache: Cache) -> dict[str, str]:
    """Return the variable by which the folder's processes are known."""
    return {MARK: str(cache.folder)}


def processes(cache: Cache, *, proc: Path = Path("/proc")) -> list[int]:
    """Return the pids of the folder's processes, this one excepted."""
    wanted = f"{MARK}={cache.folder}".encode()
    found = []
    for file in proc.glob("[0-9]*/environ"):
        # Another user's environment cannot be read, and is not ours.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if wanted in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def end(cache: Cache) -> int:
    """End the folder's processes at once; return how many there were."""
    first = processes(cache)
    deadline = time.monotonic() + _GONE_SECONDS
    left = first
    while left:
        if time.monotonic() > deadline:
            raise ServerError(f"processes {left} of {cache.folder} do not end; end them by hand")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        left = processes(cache)
    return len(first)


@contextlib.contextmanager
def alone(cache: Cache) -> Iterator[None]:
    """Hold the folder; `CacheError` while another run does. The kernel gives it back when a run is killed."""
    if not cache.folder.is_dir():
        yield
        return
    handle = os.open(cache.folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(f"another run uses {cache.folder}: wait for its end, or use --dir") from error
        yield
    finally:
        os.close(handle)
