"""The page of a scaling replay: load, ready replicas and queue over time, ours beside plain HPAs. One file, no scripts.

Curves are thinned to what a screen shows, keeping the highest value of each column of pixels, so that no peak is lost.
The file loads nothing from anywhere.
"""

import html
from collections.abc import Sequence
from typing import Final

import numpy as np

from optiinfra.domain.replay.comparison import Comparison
from optiinfra.domain.replay.fluid import STEP_S, FloatArray
from optiinfra.domain.replay.gaps import Bools

WIDTH: Final = 1200
HEIGHT: Final = 260
LEFT: Final = 60
COLOURS: Final = ("#0b6e4f", "#b04a00", "#7a4fa0", "#1f5fa8")
GREY: Final = "#9a9a9a"
BLACK: Final = "#000000"
MOST_SPANS: Final = 500


def thinned(values: FloatArray) -> FloatArray:
    """At most one value a pixel: the highest known one of its part; NaN where none is known."""
    if len(values) <= WIDTH:
        return values
    edges = np.linspace(0, len(values), WIDTH, endpoint=False).astype(np.int64)
    highest: FloatArray = np.fmax.reduceat(values, edges)
    return highest


def _line(values: FloatArray, *, top: float, colour: str) -> str:
    shown = thinned(values)
    x = LEFT + np.arange(len(shown)) * (WIDTH / max(1, len(shown) - 1))
    y = HEIGHT - shown * (HEIGHT / top)
    lines = []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(y), [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2):
        part = slice(first, last)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[part], y[part], strict=True))
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{points}"/>')
    return "".join(lines)


def _chart(title: str, curves: Sequence[tuple[str, FloatArray, str]], *, days: float, below: str) -> str:
    top = max(1e-9, *(float(np.nanmax(values)) for _, values, _ in curves)) * 1.05
    marks = "".join(
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e4e4e4"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{top * share:.3g}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        for y in (HEIGHT - HEIGHT * share,)
    )
    hours = "".join(
        f'<text x="{LEFT + WIDTH * part / 6:.0f}" y="{HEIGHT + 16}" text-anchor="middle">{days * part / 6:.3g} d</text>'
        for part in range(7)
    )
    lines = "".join(_line(values, top=top, colour=colour) for _, values, colour in curves)
    names = " ".join(f'<span style="color:{colour}">&#9632; {html.escape(name)}</span>' for name, _, colour in curves)
    box = f"-4 -8 {LEFT + WIDTH + 40} {HEIGHT + 30}"
    return (
        f'<h2>{html.escape(title)}</h2><p>{names}</p><svg viewBox="{box}" role="img">{below}{marks}{hours}{lines}</svg>'
    )


def unknown_spans(known: Bools) -> list[tuple[int, int]]:
    """(first, one after the last) step of each time of which nothing is known, at most `MOST_SPANS`, longest first."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], known, [True]]).astype(np.int8)))
    spans = [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
    return sorted(spans, key=lambda span: span[0] - span[1])[:MOST_SPANS]


def _shade(known: Bools) -> str:
    width = WIDTH / len(known)
    return "".join(
        f'<rect x="{LEFT + first * width:.1f}" y="0" width="{(last - first) * width:.1f}" height="{HEIGHT}" '
        'fill="#f0d9b5"/>'
        for first, last in unknown_spans(known)
    )


def page(name: str, done: Comparison, *, ran: FloatArray) -> str:
    """Return the whole page; `ran` are the replicas that were ready, (steps,), NaN where that is not known."""
    setup = done.setup
    days = setup.load.shape[1] * STEP_S / 86_400.0
    runs = list(zip((done.ours, *done.plain), COLOURS, strict=True))
    load = ("load", setup.load[0], GREY)
    ready = [(run.name, run.ready.astype(np.float64), colour) for run, colour in runs]
    if np.isfinite(ran).any():
        ready.append(("as it ran", ran, BLACK))
    waits = [(run.name, run.wait(), colour) for run, colour in runs]
    shade = _shade(setup.known)
    title = html.escape(f"Replay of {name}")
    style = "body{font:14px sans-serif;margin:24px;max-width:1320px}svg{width:100%}text{font-size:11px;fill:#555}"
    gap = " Shaded: the load is not known." if shade else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        f"<h1>{title}</h1><p>Computed in a fluid model, not measured. Columns show their highest value.{gap}</p>"
        + _chart("Load and ready replicas, in replicas", [load, *ready], days=days, below=shade)
        + _chart("Wait of newly arrived work, in seconds", waits, days=days, below=shade)
        + "</html>\n"
    )
