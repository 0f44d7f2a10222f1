"""Serves one page of metrics on every address of a node: `python -m bench.node_pages FILE PORT`.

Every simulated pod's address leads to its node (`hack.node`), so one process answers for them all, as KWOK's pods have
nobody who would.
"""

import http.server
import sys
from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """Answers every path with the same page."""

    daemon_threads = True
    page: bytes = b""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the page."""
        assert isinstance(self.server, Server)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(self.server.page)))
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *_: object) -> None:
        """Say nothing: thousands of readings are the purpose."""


def main() -> None:
    """Serve until it is killed."""
    file, port = sys.argv[1:]
    server = Server(("", int(port)), _Handler)
    server.page = Path(file).read_bytes()
    server.serve_forever()


if __name__ == "__main__":
    main()
