"""A server with a fleet's past in it: plays the past, brings it in by the loader that fits the server, and starts it.

| server | from | loaded by |
|---|---|---|
| debian | Debian's prometheus 2.42 | `promtool tsdb create-blocks-from openmetrics`, a file a day |
| prometheus | Prometheus 3, Go module | `prometheus-backfill` (hack/go/prometheus): the same blocks from columns |
| victoria-metrics | VictoriaMetrics, Go module | `/api/v1/import` |

Text takes promtool some 10 s of CPU per million samples, columns less than one, so large fleets go by columns; blocks
are blocks, and either server of Prometheus reads both. Everything lies in one folder, which goes with it unless it was
given; what lies in a given one is started again as it is, so that only the first time takes minutes.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from hack.binaries.catalogue import BinaryError
from hack.binaries.debian import ensure_packaged
from hack.binaries.find import ensure
from hack.prometheus.live import LivePage
from hack.prometheus.server import Server, ServerError, free_port
from optiinfra_sim.history import ballast, every_series, truth_document
from optiinfra_sim.history_fleet import Fleet, build
from optiinfra_sim.history_models import plan
from optiinfra_sim.history_series import (
    Series,
    Written,
    end_columns,
    json_lines,
    windows,
    write_columns,
    write_open_metrics,
)

SERVERS: Final = ("debian", "prometheus", "victoria-metrics")
DAY_S: Final = 86_400.0
LAG_S: Final = 60.0
"""The past ends so long before now."""
LOAD_SECONDS: Final = 1800.0
SETTLE_SECONDS: Final = 300.0
RETENTION: Final = "20d"
"""A tenth of it, two days, is the largest block that Prometheus makes of smaller ones: the days stay as they are, as on
a server that keeps two weeks. With more it would be busy with that while it is measured."""
CHUNK_BYTES: Final = 8 << 20
_MARKS: Final = "played.json"
_CONFIGURATION: Final = "global: {scrape_interval: 30s}\n"
_SCRAPE: Final = """scrape_configs:
  - job_name: live
    honor_labels: true
    static_configs: [{targets: ["127.0.0.1:%d"]}]
"""


class Loaded:
    """A running server that has a fleet's past; a context manager."""

    def __init__(
        self,
        server: str,
        *,
        fleet: str = "small",
        seed: int = 1,
        columns: bool | None = None,
        live: bool = False,
        folder: Path | None = None,
        flags: Iterable[str] = (),
    ) -> None:
        """Choose; nothing starts before `__enter__`.

        `columns` loads through `prometheus-backfill`, text through promtool; by default what the server comes with.
        `live` adds what exporters show besides (`history_ballast`): hourly in the past, and scraped now.
        """
        if server not in SERVERS:
            raise ServerError(f"no server {server}: choose of {', '.join(SERVERS)}")
        self.name = server
        self.fleet_name = fleet
        self._seed = seed
        self._columns = server == "prometheus" if columns is None else columns
        self._live = live
        self._given = folder
        self._flags = tuple(flags)
        self._stack = contextlib.ExitStack()
        self._page: LivePage | None = None
        self._reads = 0
        self._program = ""
        self.server: Server
        self.fleet: Fleet
        self.written: Written
        self.load_seconds: float

    def __enter__(self) -> Self:
        """Play, load and start; raise ServerError or BinaryError."""
        with contextlib.ExitStack() as stack:
            folder = self._given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optiinfra-metrics-")))
            folder.mkdir(parents=True, exist_ok=True)
            self.folder = folder
            began = time.monotonic()
            kept = self._kept()
            end = time.time() - LAG_S if kept is None else kept["end"]
            self.fleet = build(plan(self.fleet_name, seed=self._seed), end=end, seed=self._seed)
            (folder / "truth.json").write_text(json.dumps(truth_document(self.fleet), indent=1))
            if self._live and self.name != "victoria-metrics":
                self._page = stack.enter_context(LivePage(ballast(self.fleet)))
            if kept is None:
                self._load(stack)
                marks = {**self._marks, "end": end, "series": self.written.series, "samples": self.written.samples}
                (folder / _MARKS).write_text(json.dumps(marks))
            else:
                self.written = Written(kept["series"], kept["samples"])
                self.server = self._start(stack)
            self.load_seconds = time.monotonic() - began
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _marks(self) -> dict[str, Any]:
        """What a folder has to hold to be used again: either server of Prometheus reads the other's blocks."""
        form = "victoria-metrics" if self.name == "victoria-metrics" else "blocks"
        return {"form": form, "fleet": self.fleet_name, "seed": self._seed, "live": self._live}

    def _kept(self) -> dict[str, Any] | None:
        """Return what the folder says that it holds; None where it holds nothing, or something else."""
        path = self.folder / _MARKS
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found if found.items() >= self._marks.items() else None

    def _load(self, stack: contextlib.ExitStack) -> None:
        """Write the past and start the server on it."""
        (self.folder / _MARKS).unlink(missing_ok=True)
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        if self.name == "victoria-metrics":
            self.server = self._start(stack)
            self._import()
        else:
            self.written = self._backfill(data) if self._columns else self._promtool(data)
            self.server = self._start(stack)

    @property
    def truth(self) -> dict[str, Any]:
        """What is true of the fleet."""
        return truth_document(self.fleet)

    def version(self) -> str:
        """Name the server as it names itself."""
        answer = subprocess.run([self._program, "--version"], capture_output=True, text=True, timeout=20, check=False)
        return (answer.stdout or answer.stderr).splitlines()[0].partition(" (")[0].replace(", version", "")

    def restart(self) -> None:
        """End the server and start it anew on the same data: its memory is that of one that was just started."""
        self.server.stop()
        with contextlib.ExitStack() as stack:
            self.server = self._start(stack)
            self._stack.push(stack.pop_all())

    def settle(self, seconds: float) -> None:
        """Wait until the server scraped what it is to scrape, and until its memory stopped growing for so long."""
        deadline = time.monotonic() + SETTLE_SECONDS
        highest, since = 0, time.monotonic()
        while time.monotonic() < deadline:
            page_read = self._page is None or self._page.reads > self._reads
            own = self.server.memory().own
            if own > highest * 1.02 or not page_read:
                highest, since = max(own, highest), time.monotonic()
            if time.monotonic() - since >= seconds:
                return
            time.sleep(0.2)
        raise ServerError(f"{self.name}: its memory did not come to rest within {SETTLE_SECONDS:.0f} s")

    def _start(self, stack: contextlib.ExitStack) -> Server:
        self._reads = 0 if self._page is None else self._page.reads
        if self.name == "victoria-metrics":
            return self._victoria_metrics(stack)
        return self._prometheus(stack, self.folder / "data")

    def _series(self) -> Iterator[Series]:
        yield from every_series(self.fleet)
        if self._live:
            yield from ballast(self.fleet)

    def _promtool(self, data: Path) -> Written:
        promtool = ensure_packaged("promtool")
        texts = self.folder / "text"
        texts.mkdir(exist_ok=True)
        paths, written = write_open_metrics(self._series(), texts, times=self.fleet.times, width_s=DAY_S)
        for path in paths:
            command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", "--max-block-duration=24h"]
            _run([*map(str, command), str(path), str(data)], what="promtool")
            path.unlink()
        return written

    def _backfill(self, data: Path) -> Written:
        program = str(ensure(["prometheus-backfill"])["prometheus-backfill"])
        paths = [
            self.folder / f"{number:04}.columns" for number in range(len(windows(self.fleet.times, width_s=DAY_S)))
        ]
        with contextlib.ExitStack() as files:
            opened = [files.enter_context(path.open("wb", buffering=1 << 20)) for path in paths]
            written = write_columns(self._series(), opened, times=self.fleet.times, width_s=DAY_S)
            end_columns(opened[-1])
        with subprocess.Popen([program, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            if process.stdin is None or process.stdout is None:
                raise ServerError("prometheus-backfill has no pipes")
            with contextlib.suppress(BrokenPipeError):
                for path in paths:
                    with path.open("rb") as file:
                        shutil.copyfileobj(file, process.stdin, CHUNK_BYTES)
                    path.unlink()
                process.stdin.close()
            told = process.stdout.read()
        if process.returncode or int(told) != written.samples:
            raise ServerError(f"prometheus-backfill ended with {process.returncode} and said {told!r}")
        return written

    def _prometheus(self, stack: contextlib.ExitStack, data: Path) -> Server:
        program = ensure_packaged("prometheus") if self.name == "debian" else ensure(["prometheus"])["prometheus"]
        self._program = str(program)
        configuration = _CONFIGURATION if self._page is None else _CONFIGURATION + _SCRAPE % self._page.port
        (self.folder / "prometheus.yml").write_text(configuration)
        port = free_port()
        server = Server(
            name=self.name,
            command=[
                str(program),
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={data}",
                f"--storage.tsdb.retention.time={RETENTION}",
                f"--web.listen-address=127.0.0.1:{port}",
                *self._flags,
            ],
            port=port,
            log=self.folder / "server.log",
            ready="/-/ready",
        )
        stack.callback(server.stop)
        return server

    def _victoria_metrics(self, stack: contextlib.ExitStack) -> Server:
        program = ensure(["victoria-metrics"])["victoria-metrics"]
        port = free_port()
        self._program = str(program)
        server = Server(
            name=self.name,
            command=[
                str(program),
                f"-storageDataPath={self.folder / 'data'}",
                "-retentionPeriod=90d",
                f"-httpListenAddr=127.0.0.1:{port}",
                "-memory.allowedBytes=1GiB",
                *self._flags,
            ],
            port=port,
            log=self.folder / "server.log",
            ready="/health",
        )
        stack.callback(server.stop)
        return server

    def _import(self) -> None:
        count = samples = size = 0
        lines: list[bytes] = []
        for one, line in _with_lines(self._series(), self.fleet):
            count += 1
            samples += len(one.values)
            lines.append(line)
            size += len(line)
            if size > CHUNK_BYTES:
                self._post(b"".join(lines))
                lines, size = [], 0
        self._post(b"".join(lines))
        # What was imported is visible only after a flush.
        self.server.fetch("/internal/force_flush", timeout_s=LOAD_SECONDS)
        self.written = Written(count, samples)

    def _post(self, body: bytes) -> None:
        self.server.fetch("/api/v1/import", body, timeout_s=LOAD_SECONDS)


def _with_lines(every: Iterable[Series], fleet: Fleet) -> Iterator[tuple[Series, bytes]]:
    for one in every:
        yield from ((one, line) for line in json_lines([one], times=fleet.times))


def _run(command: list[str], *, what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
    if done.returncode:
        raise ServerError(f"{what} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")


__all__ = ["SERVERS", "BinaryError", "Loaded", "ServerError"]
