"""Charts of the HTML report: inline SVG with a title and a description in words, readable in grey and on paper.

Curves differ by dash as well as by colour. Nothing of it is a script, and no text of a label gets in unescaped.
"""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from optiinfra.cli.report_words import clean
from optiinfra.domain.report.report import Curves

WIDTH: Final = 720
HEIGHT: Final = 150
LEFT: Final = 44
BELOW: Final = 22
_STYLES: Final = (("ran", "it ran", ""), ("ours", "OptiInfra would have run", "6 3"), ("load", "kept busy", "2 2"))


def replicas(curves: Curves, *, name: str, number: int) -> str:
    """Draw a model's replicas over the window; empty where nothing is known."""
    rows = {"ran": curves.ran, "ours": curves.ours, "load": curves.load}
    known = [value for row in rows.values() for value in row if value is not None]
    if not known or len(curves.times) < 2:
        return ""
    top = max([1.0, *known]) * 1.08
    drawn = [(key, label, dash) for key, label, dash in _STYLES if any(value is not None for value in rows[key])]
    lines = "".join(_line(rows[key], top=top, kind=key, dash=dash) for key, _, dash in drawn)
    means = ", ".join(f"{_mean(rows[key]):.2f} {label}" for key, label, _ in drawn)
    title = html.escape(clean(f"Replicas of {name} over time"))
    told = html.escape(clean(f"Means: {means}."))
    legend = "".join(
        f'<line class="c-{key}" stroke-dasharray="{dash}" x1="{LEFT + 190 * at}" x2="{LEFT + 190 * at + 26}" y1="-8" '
        f'y2="-8"/><text x="{LEFT + 190 * at + 32}" y="-4">{label}</text>'
        for at, (key, label, dash) in enumerate(drawn)
    )
    return (
        f'<svg viewBox="0 -20 {LEFT + WIDTH + 8} {HEIGHT + BELOW + 20}" role="img" '
        f'aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{title}</title><desc id="d{number}">{told}</desc>'
        f"{_scale(top)}{_days(curves.times)}{lines}{legend}</svg>"
    )


def bar(parts: Sequence[tuple[str, float, str]], *, title: str) -> str:
    """Draw shares of a whole as one bar: (name, share, class) each."""
    x, shapes, words = 0.0, [], []
    for name, share, kind in parts:
        width = max(0.0, min(1.0, share)) * WIDTH
        shapes.append(f'<rect class="b-{kind}" x="{x:.1f}" y="0" width="{width:.1f}" height="22"/>')
        words.append(f"{name} {share:.0%}")
        x += width
    told = html.escape(clean("; ".join(words)))
    return (
        f'<svg viewBox="0 0 {WIDTH} 22" role="img" aria-label="{html.escape(clean(title))}: {told}" class="bar">'
        f'{"".join(shapes)}</svg><p class="key">{told}</p>'
    )


def _line(values: Sequence[float | None], *, top: float, kind: str, dash: str) -> str:
    step = WIDTH / max(1, len(values) - 1)
    found: list[str] = []
    points: list[str] = []
    for at, value in enumerate([*values, None]):
        if value is not None:
            points.append(f"{LEFT + at * step:.1f},{HEIGHT - value * HEIGHT / top:.1f}")
        elif points:
            if len(points) == 1:
                points.append(points[0])
            found.append(f'<polyline class="c-{kind}" stroke-dasharray="{dash}" points="{" ".join(points)}"/>')
            points = []
    return "".join(found)


def _scale(top: float) -> str:
    marks = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT * (1.0 - share)
        marks.append(
            f'<line class="g" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.0f}" y2="{y:.0f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{top * share:.3g}</text>'
        )
    return "".join(marks)


def _days(times: Sequence[float]) -> str:
    marks = []
    for part in range(5):
        at = round(part / 4 * (len(times) - 1))
        x = LEFT + WIDTH * part / 4
        day = datetime.fromtimestamp(times[at], UTC).strftime("%d %b %H:%M")
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        marks.append(f'<text x="{x:.0f}" y="{HEIGHT + 16}" text-anchor="{anchor}">{day}</text>')
    return "".join(marks)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
