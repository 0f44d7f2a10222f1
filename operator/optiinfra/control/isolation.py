"""A failure belongs to the object it happened in, never to the round: the one place where everything is caught.

What is caught becomes the object's problem, a counter and a log line with its traceback, so nothing is swallowed. Only
mistakes of this program end here; what the world does wrong has an error type and is dealt with where it happens. A
write that the Lease no longer allows is nobody's failure: it goes on to whoever runs the part, and is logged as what it
is (`log_failure`).
"""

import contextlib
import logging
from collections.abc import Iterator

from optiinfra import metrics
from optiinfra.analysis.errors import RoundFailed
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


def lost_lead(error: BaseException | None) -> bool:
    """Tell whether an error says no more than that this replica may not write any longer: a state, and no mistake."""
    if isinstance(error, RoundFailed):
        return all(lost_lead(one) for one in (error.__cause__, *(later for _, later in error.also)))
    if isinstance(error, BaseExceptionGroup):
        return all(lost_lead(one) for one in error.exceptions)
    return isinstance(error, LeadershipLost)


def log_failure(logger: logging.Logger, message: str, error: Exception, **extra: str) -> None:
    """Log an error with its traceback; a lost lead is a warning of one line."""
    if lost_lead(error):
        logger.warning("%s: this replica may not write", message, extra={**extra, "error": str(error)[:500]})
    else:
        logger.error(message, extra=extra, exc_info=error)
