"""Keep LangChain and LangGraph from exporting or storing anything, whatever the environment says, and small.

LangSmith is always installed with langchain-core and uploads every run, prompts included, once a variable such as
LANGSMITH_TRACING is set; in a cluster such a variable may come from anybody's `envFrom`. So the switches are put down
before langgraph is imported, and every run is also wrapped in `untraced()`, which no variable overrides.

langgraph also brings an HTTP client whose command line imports rich and pygments wherever they are installed. Nothing
here has a use for it, and it takes 3 MiB of the operator's memory.
"""

import os
import sys
from contextlib import AbstractContextManager
from typing import Final

OFF: Final = {
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_OTEL_ENABLED": "false",
    "LANGGRAPH_STRICT_MSGPACK": "true",  # no checkpointer is used; were one added, it must not unpickle
}
"""Variables forced to these values. Read by langsmith and langgraph, some of them only on import."""

REMOVED: Final = ("LANGCHAIN_TRACING",)
"""Variables whose mere presence makes langchain-core raise on every run (tracing version 1 is gone)."""


UNUSED: Final = ("httpx._main", "httpx2._main")
"""Modules that are not imported: their packages catch the ImportError, as where rich is not installed."""


def isolate() -> None:
    """Put the switches of the process down. Idempotent."""
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: do not import
    os.environ.update(OFF)
    for name in REMOVED:
        os.environ.pop(name, None)


def untraced() -> AbstractContextManager[None]:
    """Return a context in which LangSmith records nothing: it is asked before any variable of the environment."""
    from langsmith.run_helpers import tracing_context  # noqa: PLC0415  after isolate(): it reads the environment

    return tracing_context(enabled=False)
