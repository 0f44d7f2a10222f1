"""Logging: one JSON object a line on standard error, the same shape for our own code, Kopf and the servers.

No secret and no text of users (labels, annotations, pages) is ever put into a message; what a line is about goes into
fields, so that messages stay searchable.
"""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

_NOISY = ("aiohttp.access", "uvicorn.access", "httpx", "httpcore", "kopf.objects")


def configure(level: str) -> None:
    """Send everything to standard error as JSON, at the given level (DEBUG, INFO, WARNING, ERROR)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
