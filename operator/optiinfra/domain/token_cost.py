"""What a million tokens cost: money over tokens of the last hour, on several bases, each under its own name.

An engine does prompts and generation on the same GPU at the same time, so how its cost divides between the two is a
convention, and each convention gives another price. All of them are told, by name (`Basis`), and each on what is held
and on what is used of it (`Charge`): a service that idles half of the time pays twice as much for each token as its
busy GPUs alone would say. Money and tokens are added up over the same moments only: a moment in which either is not
known counts for neither. Sums decay with a time constant of an hour.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import exp
from typing import Final

from optiinfra.domain.aggregation import GENERATION_WEIGHT
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime

MEMORY: Final = Seconds(3_600.0)
"""Time constant of the sums."""
LEAST_SPAN: Final = Seconds(300.0)
"""Money and tokens must have been seen for so long."""
LEAST_TOKENS: Final = 1_000.0
"""A price per token of fewer tokens is a price of the silence between them."""
LONGEST_GAP: Final = Seconds(300.0)
"""Between two observations; what lies further apart was not seen."""
_MILLION: Final = 1e6


class Basis(StrEnum):
    """How cost is divided between prompt and generated tokens."""

    GENERATED = "Generated"
    """Everything is charged to generated tokens, as many price lists of hosted models are read; prompts are free."""
    WEIGHTED = "Weighted"
    """By work: a generated token counts four times a prompt token, as in the scaler and in the benchmark."""
    TIME = "Time"
    """By the time that requests spend in prefill and in decode, where the engine measures it."""


class Charge(StrEnum):
    """Which cost is divided."""

    HELD = "Held"
    """What the pods ask for, whether it is used or not: what is really paid."""
    USED = "Used"
    """GPUs as far as they were busy, CPU and memory as asked for: what a full replica would make of it."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Money for a million tokens of each kind."""

    basis: Basis
    charge: Charge
    prompt: Value
    generation: Value


@dataclass(slots=True)
class _Sums:
    """Decaying sums over the moments in which everything in them was known."""

    span: float = 0.0
    money: float = 0.0
    prefill_money: float = 0.0
    prompt: float = 0.0
    generation: float = 0.0

    def add(self, seconds: float, *, per_hour: float, prefill_share: float, prompt: float, generation: float) -> None:
        money = per_hour * seconds / 3_600.0
        self.span += seconds
        self.money += money
        self.prefill_money += money * prefill_share
        self.prompt += prompt * seconds
        self.generation += generation * seconds

    def decay(self, factor: float) -> None:
        self.span *= factor
        self.money *= factor
        self.prefill_money *= factor
        self.prompt *= factor
        self.generation *= factor


@dataclass(frozen=True, slots=True)
class Moment:
    """What was known at one moment."""

    held_per_hour: Value
    used_per_hour: Value
    prompt_rate: Value
    """Tokens per second."""
    generation_rate: Value
    prefill_seconds: Value
    """Mean time that a request spends in prefill, and in decode."""
    decode_seconds: Value


@dataclass(slots=True)
class TokenMeter:
    """Adds up money and tokens of one service. One observation a round."""

    last: float | None = None
    sums: dict[tuple[Charge, bool], _Sums] = field(default_factory=dict)
    """By charge, and whether only moments with known times of prefill and decode are in them."""

    def observe(self, moment: Moment, *, now: UnixTime) -> None:
        """Count the time since the last observation at what is known now. Times that go back begin anew."""
        seconds = 0.0 if self.last is None else now - self.last
        self.last = now
        if not 0.0 < seconds <= LONGEST_GAP:
            if seconds < 0.0 or seconds > 4.0 * MEMORY:
                self.sums.clear()
            return
        for sums in self.sums.values():
            sums.decay(exp(-seconds / MEMORY))
        prompt, generation = moment.prompt_rate, moment.generation_rate
        if isinstance(prompt, Unknown) or isinstance(generation, Unknown):
            return
        share = _prefill_share(moment)
        for charge, cost in ((Charge.HELD, moment.held_per_hour), (Charge.USED, moment.used_per_hour)):
            if isinstance(cost, Unknown):
                continue
            for timed in (False, True):
                if timed and share is None:
                    continue
                self.sums.setdefault((charge, timed), _Sums()).add(
                    seconds,
                    per_hour=cost,
                    prefill_share=share or 0.0,
                    prompt=max(0.0, prompt),
                    generation=max(0.0, generation),
                )

    def prices(self, moment: Moment) -> tuple[TokenPrice, ...]:
        """Return the price of a million tokens on every basis; `moment` is the latest one, for the reasons."""
        held = [_price(Charge.HELD, basis, self._of(Charge.HELD, basis), moment) for basis in Basis]
        used = [_price(Charge.USED, basis, self._of(Charge.USED, basis), moment) for basis in Basis]
        return (*held, *used)

    def _of(self, charge: Charge, basis: Basis) -> _Sums:
        return self.sums.get((charge, basis is Basis.TIME), _Sums())


def _prefill_share(moment: Moment) -> float | None:
    prefill, decode = moment.prefill_seconds, moment.decode_seconds
    if isinstance(prefill, Unknown) or isinstance(decode, Unknown) or prefill < 0.0 or decode < 0.0:
        return None
    return prefill / (prefill + decode) if prefill + decode > 0.0 else None


def _price(charge: Charge, basis: Basis, sums: _Sums, moment: Moment) -> TokenPrice:
    cost = moment.held_per_hour if charge is Charge.HELD else moment.used_per_hour
    reason = _why_not(cost, basis, sums, moment)
    if reason is not None:
        return TokenPrice(basis, charge, reason, reason)
    match basis:
        case Basis.GENERATED:
            free = Unknown(UnknownReason.UNSUPPORTED, "on this basis everything is charged to generated tokens")
            return TokenPrice(basis, charge, free, _per_million(sums.money, sums.generation, "generated"))
        case Basis.WEIGHTED:
            unit = sums.money / (sums.prompt + GENERATION_WEIGHT * sums.generation) * _MILLION
            return TokenPrice(basis, charge, unit, unit * GENERATION_WEIGHT)
        case Basis.TIME:
            return TokenPrice(
                basis,
                charge,
                _per_million(sums.prefill_money, sums.prompt, "prompt"),
                _per_million(sums.money - sums.prefill_money, sums.generation, "generated"),
            )


def _why_not(cost: Value, basis: Basis, sums: _Sums, moment: Moment) -> Unknown | None:
    enough = sums.span >= LEAST_SPAN * 0.9 and sums.prompt + sums.generation >= LEAST_TOKENS
    if isinstance(moment.held_per_hour, Unknown):
        # Whatever took the price away took it from the last hour, too.
        return moment.held_per_hour
    if enough:
        # Use that was not measured this minute takes nothing from what was measured before.
        return None
    if isinstance(cost, Unknown):
        return cost
    for rate in (moment.prompt_rate, moment.generation_rate):
        if isinstance(rate, Unknown):
            return rate
    if basis is Basis.TIME and _prefill_share(moment) is None:
        text = "the engine does not measure how long requests are in prefill and in decode"
        return Unknown(UnknownReason.NOT_MEASURED, text)
    if sums.span < LEAST_SPAN * 0.9:
        text = "cost and tokens were not watched together for five minutes yet"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, text)
    return Unknown(UnknownReason.TOO_FEW_SAMPLES, "fewer than a thousand tokens in the last hour")


def _per_million(money: float, tokens: float, kind: str) -> Value:
    if tokens < LEAST_TOKENS:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"fewer than a thousand {kind} tokens in the last hour")
    return money / tokens * _MILLION
