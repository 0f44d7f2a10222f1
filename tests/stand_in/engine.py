"""A stand-in for an engine, run in a container: real requests, a real queue and real CPU time on a page as vLLM's.

No model and no GPU: a token costs a bounded time of one core and a pause. It serves `--max-num-seqs` requests at once,
the others wait. The page is a recorded one of vLLM whose numbers are those of this process. Standard library only.
"""

import argparse
import hashlib
import http.server
import json
import re
import threading
import time
from collections import deque
from pathlib import Path

MOST_WAITING = 2000
CHUNK = b"\0" * 32768
"""hashlib lets other threads go on while it works on so much."""
PROMPT_TOKENS = 200
_LINE = re.compile(r"vllm:(?P<name>\w+?)(?P<part>_bucket|_count|_sum|_total)?\{(?P<labels>.*)\} ")


class Engine:
    """Requests, workers and what both come to."""

    def __init__(self, *, slots: int, tokens: int, cpu_seconds: float, pause_seconds: float) -> None:
        self.slots, self.tokens = slots, tokens
        self._cpu, self._pause = cpu_seconds, pause_seconds
        self._waiting: deque[float] = deque()
        self._change = threading.Condition()
        self.running = self.finished = self.generated = 0
        names = ("time_to_first_token", "inter_token_latency", "request_queue_time", "e2e_request_latency")
        self.seen: dict[str, list[float]] = {f"{name}_seconds": [] for name in names}
        for _ in range(slots):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, count: int) -> int:
        """Take requests; returns how many had room."""
        with self._change:
            taken = max(0, min(count, MOST_WAITING - len(self._waiting)))
            self._waiting.extend([time.monotonic()] * taken)
            self._change.notify(taken)
        return taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting)
                arrived = self._waiting.popleft()
                self.running += 1
            self._serve(arrived)
            with self._change:
                self.running -= 1
                self.finished += 1

    def _serve(self, arrived: float) -> None:
        self._note("request_queue_time_seconds", time.monotonic() - arrived)
        before = None
        for _ in range(self.tokens):
            burn(self._cpu)
            time.sleep(self._pause)
            now = time.monotonic()
            if before is None:
                self._note("time_to_first_token_seconds", now - arrived)
            else:
                self._note("inter_token_latency_seconds", now - before)
            before = now
            with self._change:
                self.generated += 1
        self._note("e2e_request_latency_seconds", time.monotonic() - arrived)

    def _note(self, name: str, seconds: float) -> None:
        with self._change:
            self.seen[name].append(seconds)


def burn(seconds: float) -> None:
    """Use so much of one core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(CHUNK)


class Page:
    """The recorded page, taken apart once: a page must cost next to nothing where CPU is short."""

    def __init__(self, text: str) -> None:
        self._pieces: list[str] = []
        self._holes: list[tuple[str, str, float]] = []
        literal = ""
        for line in text.splitlines():
            found = _LINE.match(line)
            hole = self._hole(found, line) if found else None
            if hole is None:
                literal += line + "\n"
                continue
            self._pieces.append(literal + found[0])
            self._holes.append(hole)
            literal = "\n"
        self._end = literal
        self._counted: dict[str, int] = {}
        self._counts: dict[str, dict[float, int]] = {}
        self._sums: dict[str, float] = {}
        for name, part, bound in self._holes:
            if part == "_bucket":
                self._counts.setdefault(name, {})[bound] = 0

    @staticmethod
    def _hole(found: "re.Match[str]", line: str) -> tuple[str, str, float] | None:
        name, part, labels = found["name"], found["part"] or "", found["labels"]
        if name in _GAUGES and not part:
            return (name, "deferred" if 'reason="deferred"' in labels else "", 0.0)
        if name in _TOTALS and part == "_total" and ("reason" not in labels or 'finished_reason="stop"' in labels):
            return (name, part, 0.0)
        if name in _HISTOGRAMS and part in {"_bucket", "_count", "_sum"}:
            bound = re.search(r'le="([^"]+)"', labels)
            return (name, part, float(bound[1]) if bound else 0.0)
        return None

    def render(self, engine: Engine) -> bytes:
        """Write it as things stand."""
        self._count(engine)
        finished = engine.finished
        totals = {
            "prompt_tokens": PROMPT_TOKENS * finished,
            "generation_tokens": engine.generated,
            "request_success": finished,
        }
        gauges = {
            "num_requests_running": engine.running,
            "num_requests_waiting": engine.waiting,
            "num_requests_waiting_by_reason": engine.waiting,
            "kv_cache_usage_perc": 0.5 * engine.running / engine.slots,
        }
        same = {"request_prompt_tokens": PROMPT_TOKENS, "request_generation_tokens": engine.tokens}
        text = []
        for piece, (name, part, bound) in zip(self._pieces, self._holes, strict=True):
            if name in gauges:
                number = 0 if part == "deferred" else gauges[name]
            elif name in totals:
                number = totals[name]
            elif name in same:
                each = {"_count": 1, "_sum": same[name], "_bucket": int(same[name] <= bound)}
                number = each[part] * finished
            elif part == "_bucket":
                number = self._counts[name][bound]
            else:
                number = self._counted.get(name, 0) if part == "_count" else self._sums.get(name, 0.0)
            text.append(f"{piece}{float(number)}")
        return ("".join(text) + self._end).encode()

    def _count(self, engine: Engine) -> None:
        """Put what was seen since the last page into the buckets."""
        for name, values in engine.seen.items():
            fresh = values[:]
            del values[: len(fresh)]
            bounds = self._counts.get(name, {})
            for bound in bounds:
                bounds[bound] += sum(value <= bound for value in fresh)
            self._counted[name] = self._counted.get(name, 0) + len(fresh)
            self._sums[name] = self._sums.get(name, 0.0) + sum(fresh)


_GAUGES = {
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
}
_TOTALS = {"prompt_tokens", "generation_tokens", "request_success"}
_HISTOGRAMS = {
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_queue_time_seconds",
    "e2e_request_latency_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
}


def serve(engine: Engine, page: Page, port: int) -> None:
    """Answer until the end."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                with lock:
                    body = page.render(engine)
                self._answer(body, "text/plain; version=0.0.4; charset=utf-8")
            else:
                self._answer(b"well\n", "text/plain")

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(json.dumps({"taken": engine.submit(int(asked["requests"]))}).encode(), "application/json")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--cpu-ms", type=float, required=True)
    parser.add_argument("--pause-ms", type=float, required=True)
    given = parser.parse_args()
    engine = Engine(
        slots=given.max_num_seqs,
        tokens=given.tokens,
        cpu_seconds=given.cpu_ms / 1000,
        pause_seconds=given.pause_ms / 1000,
    )
    serve(engine, Page(Path(__file__).with_name("page.txt").read_text()), given.port)


if __name__ == "__main__":
    main()
