"""Looks at a user's HPA all the time while something happens to the operator that holds its floor.

A floor that was let go is taken again in steps of at least seconds, so looks ten times a second miss none.
"""

import threading
from collections.abc import Callable
from typing import Any, Self

from tests.operator_process import eventually

HELD, ORIGINAL = "optiinfra.io/held", "optiinfra.io/original"
_EVERY_SECONDS = 0.1


class Watching:
    """Keeps what was seen of minReplicas and of the sign that it is held; a server that is away is not a look."""

    def __init__(self, look: Callable[[], dict[str, Any]], *, away: tuple[type[Exception], ...] = ()) -> None:
        self.floors: list[int | None] = []
        self.signs: list[str | None] = []
        self._look, self._away = look, away
        self._over = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            try:
                found = self._look()
            except self._away:
                continue
            except Exception as error:  # noqa: BLE001  told by whoever waits for the end
                self._failed = error
                return
            self.floors.append(found["spec"].get("minReplicas"))
            self.signs.append(found["metadata"].get("labels", {}).get(HELD))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(15)

    def judge(self, floor: int) -> int:
        """Return the number of looks; all of them saw this floor, and saw it held."""
        assert self._failed is None, self._failed
        assert self.floors
        assert set(self.floors) == {floor}, "a gap in which it was let go"
        assert set(self.signs) == {"true"}
        return len(self.floors)


def given_back(hpa: Callable[[], dict[str, Any]], *, original: int = 1, seconds: float = 60.0) -> dict[str, Any]:
    """Wait until nothing of the operator's is on an HPA, and its floor is what it was."""

    def nothing_left() -> dict[str, Any]:
        found = hpa()
        metadata = found["metadata"]
        assert found["spec"].get("minReplicas") == original, found["spec"]
        assert HELD not in metadata.get("labels", {})
        assert not [name for name in metadata.get("annotations", {}) if name.startswith("optiinfra.io/")]
        assert "optiinfra" not in {entry["manager"] for entry in metadata["managedFields"]}
        return found

    return eventually(nothing_left, seconds=seconds, what="the floor is given back")
