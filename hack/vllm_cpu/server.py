"""The engine's process: its command line, its environment, its start and its end.

The command line is the whole truth about its settings, and the same words are given to the operator's analysis. The
environment is built so that nothing is fetched, reported or cached outside the tool's folder.
"""

import contextlib
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from hack.cluster.processes import Process, last_words
from hack.demo.errors import DemoError
from hack.demo.programs import Programs
from hack.vllm_cpu import leftovers, model
from hack.vllm_cpu.cache import Cache
from hack.vllm_cpu.errors import ServerError

LOOPBACK: Final = "127.0.0.1"
SERVED_NAME: Final = "tiny"
BLOCK_TOKENS: Final = 32
READY_SECONDS: Final = 420.0
BATCH_LIMIT: Final = "--max-num-seqs"
BLOCKS: Final = "--num-gpu-blocks-override"
KV_MEMORY: Final = "--kv-cache-memory-bytes"
_NAME: Final = "engine"
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The dials of a case, and what advice changed in them."""

    batch_limit: int
    blocks: int
    """Of the KV cache, at 16 bits."""
    as_memory: bool = False
    """Give the engine the memory of so many blocks, instead of their number."""
    step_tokens: int | None = None
    """None: the engine's own."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """Flags that advice proposed, with their values; they replace the dials above."""

    def flags(self) -> dict[str, str]:
        """Return the flags with which the engine is started."""
        own = {
            "--max-model-len": str(model.CONTEXT_TOKENS),
            "--block-size": str(BLOCK_TOKENS),
            BATCH_LIMIT: str(self.batch_limit),
        }
        if self.as_memory:
            own[KV_MEMORY] = str(self.blocks * BLOCK_TOKENS * model.BYTES_PER_TOKEN)
        else:
            own[BLOCKS] = str(self.blocks)
        if self.step_tokens is not None:
            own["--max-num-batched-tokens"] = str(self.step_tokens)
        return own | dict(self.changed)


def command(cache: Cache, settings: Settings, *, port: int) -> list[str]:
    """Return the engine's command line."""
    fixed = ["--load-format", "dummy", "--enforce-eager", "--dtype", "bfloat16", "--served-model-name", SERVED_NAME]
    dials = [word for pair in settings.flags().items() for word in pair]
    return [str(cache.engine), "serve", str(cache.model), "--host", LOOPBACK, "--port", str(port), *fixed, *dials]


def environment(cache: Cache, settings: Settings) -> dict[str, str]:
    """Return what the engine's environment must say, beside what it inherits."""
    home = str(cache.home)
    # Gibibytes; where the flag says bytes, the variable would overrule it.
    space = {} if settings.as_memory else {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return (
        space
        | leftovers.mark(cache)
        | {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Threads that spin for cores which the scheduler and the clients need made it ten times slower.
            "OMP_NUM_THREADS": "1",
            "VLLM_CACHE_ROOT": f"{home}/vllm",
            "VLLM_CONFIG_ROOT": f"{home}/vllm-config",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HOME": f"{home}/huggingface",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "XDG_CACHE_HOME": f"{home}/cache",
            "TORCHINDUCTOR_CACHE_DIR": f"{home}/inductor",
            "TRITON_CACHE_DIR": f"{home}/triton",
            "CUDA_VISIBLE_DEVICES": "",
        }
    )


class Server:
    """One engine, from its start to its end."""

    def __init__(self, cache: Cache, settings: Settings, *, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._cache = cache
        self._say = say
        self._programs = Programs(cache.logs)
        self._port = _free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def command(self) -> list[str]:
        """Its command line."""
        return command(self._cache, self.settings, port=self._port)

    @property
    def log(self) -> Path:
        """Its log."""
        return self._programs.log(_NAME)

    def __enter__(self) -> Self:
        leftovers.end(self._cache)
        self.log.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            self._process = self._programs.start(_NAME, self.command, environment(self._cache, self.settings))
            self._wait(started)
        except BaseException:
            self._end()
            raise
        self._say(f"the engine is ready after {time.monotonic() - started:.0f} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def cpu_seconds(self) -> float:
        """Return the CPU time that the engine's processes have had since their start."""
        if self._process is None:
            raise ServerError("the engine was not started")
        return session_cpu_seconds(self._process.pid)

    def demand(self) -> None:
        """Raise ServerError, with its last words, if it has ended by itself."""
        try:
            self._programs.demand()
        except DemoError as error:
            raise ServerError(str(error)) from error

    def _wait(self, started: float) -> None:
        while time.monotonic() - started < READY_SECONDS:
            self.demand()
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(f"{self.url}/health", timeout=2.0) as answer,  # noqa: S310 - loopback
            ):
                if answer.status == 200:
                    return
            time.sleep(_POLL_SECONDS)
        raise ServerError(f"the engine is not ready after {READY_SECONDS:.0f} s; {last_words(self.log)}")

    def _end(self) -> None:
        self._programs.stop()
        # A worker that outlived it would keep the cores busy.
        leftovers.end(self._cache)


def session_cpu_seconds(session: int, *, proc: Path = Path("/proc")) -> float:
    """Return the CPU time, user and system, of the living processes of a session, in seconds."""
    ticks = 0
    for stat in proc.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            # It ended between the listing and the reading.
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
