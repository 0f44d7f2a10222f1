"""A double of Prometheus for the recommender's history provider: `query_range` and `query` over HTTP, from series.

It knows the three queries that the recommender asks at its start, by their shape, and refuses others as Prometheus
refuses what it cannot parse. A range is answered as Prometheus would: at each step from start to end the newest value
that is not older than the look-back, with the time of the step. A rate is the CPU use itself: the trace's samples are
means of their interval. Unlike Prometheus it has no limit of 11,000 steps a series.
"""

import http.server
import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs

from hack.real_vpa.series import Sample, Series

LOOKBACK_SECONDS: Final = 300.0
LABELS_METRIC: Final = "kube_pod_labels"
MOST_BYTES: Final = 64 * 1024
MOST_STEPS: Final = 100_000
_CPU: Final = re.compile(r"rate\(container_cpu_usage_seconds_total\{.*\}\[\w+\]\)")
_MEMORY: Final = re.compile(r"container_memory_working_set_bytes\{.*\}")
_LABELS: Final = re.compile(LABELS_METRIC + r"\[\w+\]")

Names = Callable[[str], tuple[str, Mapping[str, str]]]
"""The pod of a workload, and its labels."""


class Prometheus:
    """The server; a context manager. Only samples before `until` are known to it."""

    def __init__(self, series: Sequence[Series], *, namespace: str, names: Names, until: float) -> None:
        self._series, self._namespace, self._names, self._until = series, namespace, names, until
        self._server = _Server(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="prometheus-double", daemon=True)
        self.asked: list[str] = []
        """The queries, in order."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def failures(self) -> list[str]:
        """What was asked and not understood, or went wrong."""
        return self._server.failures

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, form: Mapping[str, str]) -> list[dict[str, Any]]:
        query = form["query"]
        self.asked.append(query)
        if path == "/api/v1/query" and _LABELS.fullmatch(query):
            return [self._labels(workload) for workload in dict.fromkeys(one.workload for one in self._series)]
        if path == "/api/v1/query_range":
            steps = _steps(float(form["start"]), float(form["end"]), float(form["step"]))
            for pattern, cpu in ((_CPU, True), (_MEMORY, False)):
                if pattern.fullmatch(query):
                    return [self._range(one, steps, cpu=cpu) for one in self._series]
        raise ValueError(f"{path}: {query!r} is none of the recommender's queries")

    def _range(self, one: Series, steps: Sequence[float], *, cpu: bool) -> dict[str, Any]:
        values = []
        for step in steps:
            found = one.latest(at=step, within=LOOKBACK_SECONDS) if step < self._until else None
            value = None if found is None else found.cpu_cores if cpu else found.memory_bytes
            if value is not None:
                one.told.append(Sample(step, value if cpu else None, None if cpu else value))
                values.append([step, repr(value)])
        pod, _ = self._names(one.workload)
        labels = {"job": "kubernetes-cadvisor", "namespace": self._namespace, "pod_name": pod, "name": one.container}
        return {"metric": labels, "values": values}

    def _labels(self, workload: str) -> dict[str, Any]:
        pod, labels = self._names(workload)
        metric = {"kubernetes_namespace": self._namespace, "kubernetes_pod_name": pod}
        metric |= {f"pod_label_{name}": value for name, value in labels.items()}
        return {"metric": metric, "values": [[self._until, "1"]]}


def _steps(start: float, end: float, step: float) -> list[float]:
    if not (math.isfinite(start) and math.isfinite(end) and step > 0.0 and (end - start) / step <= MOST_STEPS):
        raise ValueError(f"start {start}, end {end}, step {step}: more than {MOST_STEPS} steps, or no range")
    # Milliseconds, as Prometheus counts and the recommender reads them.
    return [round(start + number * step, 3) for number in range(math.floor((end - start) / step) + 1)]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Callable[[str, Mapping[str, str]], list[dict[str, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.failures: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > MOST_BYTES:
            self._say(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"status": "error", "errorType": "bad_data", "error": "size"}
            )
            return
        form = {name: values[-1] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
        try:
            result = self.server.answer(self.path, form)
        except (KeyError, ValueError) as error:
            self.server.failures.append(str(error))
            self._say(HTTPStatus.BAD_REQUEST, {"status": "error", "errorType": "bad_data", "error": str(error)})
            return
        self._say(HTTPStatus.OK, {"status": "success", "data": {"resultType": "matrix", "result": result}})

    def _say(self, code: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - named as in the standard library
        """Write no log: what was asked is kept."""
