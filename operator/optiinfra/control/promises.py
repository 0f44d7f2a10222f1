"""Rounds that were promised to callers of `POST /api/v1/optimize/run`: to come, done, or never to be told of.

A promise is kept once a status names it, and only this process knows of those that no status names yet. So an id begins
with a mark of the leadership that gave it: whoever asks a later leader about an id of an earlier one is told that
nobody keeps it any more, instead of waiting for ever. Nothing is written for a promise that is not kept. Bounded.
"""

import secrets
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from optiinfra.control.keys import ObjectKey

_MARK_BYTES: Final = 3
_DIGITS: Final = 16
_MOST_TOLD: Final = 4096


class PromiseState(StrEnum):
    """What became of a promised round."""

    PENDING = "Pending"
    """It is still to come, or under way."""
    DONE = "Done"
    """A status told of it."""
    LOST = "Lost"
    """Nobody keeps it: ask for another."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The answer about one id."""

    state: PromiseState
    message: str


@dataclass(slots=True)
class Promises:
    """The ids that this leadership gave."""

    _mark: str = field(default_factory=lambda: secrets.token_hex(_MARK_BYTES))
    _open: dict[str, ObjectKey] = field(default_factory=dict)
    _told: OrderedDict[str, ObjectKey] = field(default_factory=OrderedDict)
    """Of statuses that may name later ones by now."""

    def new_id(self) -> str:
        """Return an id that nobody has."""
        return f"{self._mark}{uuid.uuid4().hex}"[:_DIGITS]

    def made(self, identifier: str, key: ObjectKey) -> None:
        """Note that a caller was given an id."""
        self._open[identifier] = key

    def kept(self, identifiers: Iterable[str]) -> None:
        """Note that a status names these."""
        for one in identifiers:
            key = self._open.pop(one, None)
            if key is not None:
                self._told[one] = key
        while len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)

    def dropped(self, identifiers: Iterable[str]) -> None:
        """Note that no status is ever going to name these."""
        for one in identifiers:
            self._open.pop(one, None)

    def state(self, identifier: str, key: ObjectKey, *, named: Collection[str]) -> Promise:
        """Say what became of an id; `named` are those that the object's status names."""
        if identifier in named:
            return Promise(PromiseState.DONE, "status.lastRound.requested names it")
        if self._told.get(identifier) == key:
            return Promise(PromiseState.DONE, "a status named it; newer ones have taken its place")
        if self._open.get(identifier) == key:
            return Promise(PromiseState.PENDING, "the object is next in line, or its round is under way")
        if identifier.startswith(self._mark):
            return Promise(PromiseState.LOST, "no round of this object is to come under this id; ask again")
        return Promise(
            PromiseState.LOST,
            "this leader did not give it: the one that did ended before a status told of it, or it was never given; "
            "ask again",
        )
