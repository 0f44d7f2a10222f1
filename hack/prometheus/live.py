"""A page that a server scrapes now: what exporters show besides what is played, so that its head is as full as theirs.

A server that only has blocks takes next to no memory, and every growth of it looks large; one in a cluster holds every
series that is scraped. The page has values that never change, under names that no report reads.
"""

import http.server
import threading
from collections.abc import Iterable
from typing import Final, Self

from optiinfra_sim.history_series import Series, page

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class LivePage:
    """Serves one page on loopback; a context manager."""

    def __init__(self, every: Iterable[Series]) -> None:
        body = page(every)
        self.reads = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                outer.reads += 1

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
                del format, args  # scrapes are not worth a line each

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where it is served."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
