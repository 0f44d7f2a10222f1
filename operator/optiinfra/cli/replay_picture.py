"""The picture of a scaling replay (.png): load, ready replicas and queue over time, ours beside plain HPAs.

It needs matplotlib, which is no dependency of the operator and is in no image: it is imported when a picture is asked
for, draws without a display, and is told by name where it is missing. The page (`replay_plot`) needs nothing.
"""

import importlib.util
import io
from typing import Final

import numpy as np

from optiinfra.cli.replay_plot import COLOURS, GREY, thinned, unknown_spans
from optiinfra.domain.replay.comparison import Comparison
from optiinfra.domain.replay.fluid import STEP_S, FloatArray

REMEDY: Final = "matplotlib is needed for .png and not installed: pip install 'optiinfra[plot]', or write .html"
WIDTH_INCHES: Final = 13.0
HEIGHT_INCHES: Final = 8.0
DOTS_PER_INCH: Final = 110


def available() -> bool:
    """Tell whether matplotlib is installed, without importing it."""
    return importlib.util.find_spec("matplotlib") is not None


def picture(name: str, done: Comparison, *, ran: FloatArray) -> bytes:
    """Return the picture as PNG; `ran` are the replicas that were ready, (steps,), NaN where that is not known."""
    # Imported here: it takes half a second, and the operator's image has none of it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    length = done.setup.load.shape[1]
    scale, unit = (86_400.0, "days") if length * STEP_S > 2 * 86_400.0 else (3600.0, "hours")

    def times(values: FloatArray) -> FloatArray:
        return np.linspace(0.0, length * STEP_S / scale, len(values))

    load = thinned(done.setup.load[0])
    upper.fill_between(times(load), load, color=GREY, alpha=0.35, linewidth=0, label="load")
    for place, (run, colour) in enumerate(zip((done.ours, *done.plain), COLOURS, strict=True)):
        # Ours lies on top.
        style = {"color": colour, "linewidth": 1.0, "label": run.name, "zorder": 9 - place}
        ready, wait = thinned(run.ready.astype(np.float64)), thinned(run.wait())
        upper.plot(times(ready), ready, **style)
        lower.plot(times(wait), wait, **style)
    if np.isfinite(ran).any():
        shown = thinned(ran)
        upper.plot(times(shown), shown, color="black", linewidth=0.8, linestyle="dotted", label="as it ran")
    for axes in (upper, lower):
        for first, last in unknown_spans(done.setup.known):
            axes.axvspan(first * STEP_S / scale, last * STEP_S / scale, color="#f0d9b5", alpha=0.6, linewidth=0)
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.0)
        axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
        axes.legend(loc="upper right", fontsize="small", ncols=6)
    upper.set_title(f"Replay of {name.replace('$', '')}: computed in a fluid model, not measured", fontsize="medium")
    upper.set_ylabel("load and ready replicas")
    lower.set_ylabel("wait of new work, seconds")
    lower.set_xlabel(f"{unit}; each column shows its highest value")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH)
    return out.getvalue()
