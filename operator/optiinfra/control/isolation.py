"""A failure belongs to the object it happened in, never to the round: the one place where everything is caught.

What is caught becomes the object's problem, a counter and a log line with its traceback, so nothing is swallowed. Only
mistakes of this program end here; what the world does wrong has an error type and is dealt with where it happens.
"""

import contextlib
import logging
from collections.abc import Iterator

from optiinfra import metrics
from optiinfra.api.reasons import Reason
from optiinfra.control.work import ClusterWork, Problem, ServiceWork
from optiinfra.errors import LeadershipLost

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def isolated(item: ServiceWork | ClusterWork, *, step: str) -> Iterator[None]:
    """Keep a failure of one object's part of a step with that object."""
    try:
        yield
    except LeadershipLost:
        raise
    except Exception as error:  # noqa: BLE001  the one place for it: see the module's first line
        _LOG.exception("an object failed", extra={"object": str(item.key), "step": step})
        metrics.OBJECT_FAILURES.labels(step, type(error).__name__).inc()
        item.problem = Problem(Reason.ANALYSIS_FAILED, f"{step}: {type(error).__name__}: {error}"[:500])
