"""Whether anything was measured at the end of the window: a report on a past that ended early has to say so.

What a fleet looks like now (nodes and their pods, requests, autoscalers' limits) is read at the end of the window only.
Where nothing is told there, because the server stopped scraping, its clock is behind, or its past was loaded once, none
of that is known, and what follows from it would be missing without a word.
"""

import numpy as np

from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.history import BoolArray, FleetHistory, Lack
from optiinfra.domain.report.report import Gap


def ended(history: FleetHistory) -> tuple[Gap, ...]:
    """Return the gap, with the moment to ask for instead; nothing where the window's last step was measured."""
    seen = _seen(history)
    if not seen.any() or seen[-1]:
        return ()
    last = float(history.times[int(np.flatnonzero(seen)[-1])])
    told = str(np.datetime_as_string(np.datetime64(int(last), "s"), unit="m"))
    return (
        Gap(
            code=str(Lack.ENDED),
            what="nodes that could go, sizes and limits of autoscalers",
            why=f"nothing was measured after {told.replace('T', ' ')} UTC, and they are read at the end of the window",
            remedy=f"Give --until {told}, or look why the server has nothing newer",
        ),
    )


def _seen(history: FleetHistory) -> BoolArray:
    """Return when any engine or GPU was measured, (points,)."""
    seen: BoolArray = np.zeros(len(history.times), dtype=np.bool_)
    for model in history.models:
        if not isinstance(model.serving, Unknown):
            seen |= np.isfinite(model.serving) & (model.serving > 0.0)
    for gpu in history.gpus:
        if len(gpu.present) == len(seen):
            seen |= gpu.present
    return seen
