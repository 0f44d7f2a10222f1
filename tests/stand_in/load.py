"""Sends requests to stand-in engines, evenly in time and in turn, as often as it was told last. Standard library only.

POST / with {"targets": [URL, ...], "rate": requests a second}; GET / says what it does. Nothing is sent before that,
and never more than MOST a second. An engine that does not answer is counted, and the next one is asked.
"""

import http.server
import itertools
import json
import threading
import time
import urllib.request

MOST = 50.0
ANSWER_SECONDS = 5.0


class Load:
    """What is sent."""

    def __init__(self) -> None:
        self.told: dict[str, object] = {"targets": [], "rate": 0.0}
        self.sent = self.failed = 0
        threading.Thread(target=self._run, daemon=True).start()

    def tell(self, told: dict[str, object]) -> None:
        """Do this from now on."""
        self.told = {"targets": [str(each) for each in told["targets"]], "rate": min(MOST, float(told["rate"]))}

    def _run(self) -> None:
        turns = itertools.count()
        due = time.monotonic()
        while True:
            told = self.told
            if not told["targets"] or not told["rate"]:
                time.sleep(0.1)
                due = time.monotonic()
                continue
            due = max(due + 1.0 / told["rate"], time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
            target = told["targets"][next(turns) % len(told["targets"])]
            threading.Thread(target=self._send, args=(target,), daemon=True).start()

    def _send(self, target: str) -> None:
        request = urllib.request.Request(f"{target}/v1/completions", json.dumps({"requests": 1}).encode())
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                self.sent += 1
        except OSError:
            self.failed += 1


def main() -> None:
    load = Load()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            load.tell(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer()

        def _answer(self) -> None:
            body = json.dumps(load.told | {"sent": load.sent, "failed": load.failed}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()


if __name__ == "__main__":
    main()
