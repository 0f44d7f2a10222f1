"""Logs as JSON, one object a line on standard error: time, level, logger, agent's id and type, message, fields.

A message is a constant sentence; what varies goes into `fields` (`extra={"fields": {...}}`), so that lines can be
counted and searched. A line never carries a token: nothing that logs is ever given one.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from optiinfra_agent import AGENT_TYPE

_TRACEBACK_LENGTH = 8000


class JsonFormatter(logging.Formatter):
    """Formats one record as one line. `heading` stands in each, after the logger."""

    def __init__(self, heading: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._heading = dict(heading or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._heading,
            "message": record.getMessage().strip(),
        }
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-_TRACEBACK_LENGTH:]
        return json.dumps(line, default=str)


def set_up_logs(level: str, *, agent_id: str) -> None:
    """Send every logger of the process through the JSON format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter({"agent_id": agent_id, "agent_type": AGENT_TYPE}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The server's own notes about starting and stopping repeat what main.py says in one line.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))
