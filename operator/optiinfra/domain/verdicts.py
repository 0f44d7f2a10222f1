"""From the verdicts of single windows to one that lasts: hysteresis in both directions.

A new class has to be seen twice in a row before it becomes the verdict, so that one odd page changes nothing. Where
three in a row disagree with the verdict, two of one class are enough. The class that was just left needs all three to
come back: what lies at the edge of two classes stays where it is. So a lasting change shows on the second or third
window, and no single window ever shows at all.

What was said on a single page gives way at once. While windows disagree the verdict stands with less confidence. No
clock is read; the time is an argument.
"""

from dataclasses import dataclass, replace
from typing import Final

from optiinfra.domain.diagnosis import Diagnosis
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.units import Ratio, UnixTime

TO_CHANGE: Final = 2
"""Windows in a row that bring a new class."""
TO_RETURN: Final = 3
"""Windows in a row that bring back the class that was left lately; and that suffice when two of them agree."""
LATELY: Final = 6
"""Windows for which a class counts as just left."""
DOUBT: Final = 0.8
"""What the verdict's confidence is multiplied with for each window that disagrees."""


@dataclass(frozen=True, slots=True)
class VerdictMemory:
    """The verdict that holds, and what speaks against it."""

    diagnosis: Diagnosis
    """The newest one of the class that holds; its confidence is lowered while windows disagree."""
    since: UnixTime
    """When this class was first seen, of the windows that brought it."""
    against: tuple[tuple[UnixTime, Diagnosis], ...] = ()
    """Windows since the last one that agreed, oldest first; at most `TO_RETURN`."""
    left: Bottleneck | None = None
    """The class that held before."""
    windows: int = 0
    """Windows judged since the class changed."""


def settle(previous: VerdictMemory | None, diagnosis: Diagnosis, *, now: UnixTime) -> VerdictMemory:
    """Weigh a new window's verdict against the one that holds.

    Args:
        previous: what the call before returned; None for the first window.
        diagnosis: of the new window.
        now: the window's end.
    """
    if previous is None:
        return VerdictMemory(diagnosis, now)
    held = previous.diagnosis.bottleneck
    windows = previous.windows + 1
    if previous.diagnosis.provisional:
        return VerdictMemory(diagnosis, previous.since if diagnosis.bottleneck is held else now)
    if diagnosis.bottleneck is held:
        return replace(previous, diagnosis=diagnosis, against=(), windows=windows)
    against = (*previous.against, (now, diagnosis))[-TO_RETURN:]
    winner = _winner(against, left=previous.left if windows <= LATELY else None)
    if winner is None:
        doubted = replace(previous.diagnosis, confidence=Ratio(round(previous.diagnosis.confidence * DOUBT, 2)))
        return replace(previous, diagnosis=doubted, against=against, windows=windows)
    those = [(time, one) for time, one in against if one.bottleneck is winner]
    return VerdictMemory(those[-1][1], those[0][0], left=held)


def _winner(against: tuple[tuple[UnixTime, Diagnosis], ...], *, left: Bottleneck | None) -> Bottleneck | None:
    """Return the class that takes over, if the windows that disagree are enough."""
    classes = [one.bottleneck for _, one in against]
    newest = classes[-1]
    if newest is not left and classes[-TO_CHANGE:] == [newest] * TO_CHANGE:
        return newest
    if len(classes) < TO_RETURN:
        return None
    seen = {one: classes.count(one) for one in classes}
    return next((one for one, times in seen.items() if times >= (TO_RETURN if one is left else TO_CHANGE)), None)
