"""Which freed GPU-hour is money: each is booked once, at most as often as it was held, and not while it is reserved.

Proposals overlap: an idle replica is freed by the scaler, by right-sizing of the GPU and by taking its node away. So
every proposal claims GPU-hours of an account (a holder's GPUs of one kind, over time), and what an earlier claim freed
at the same moment is not freed again: two claims at one moment come to the larger one, not to their sum. That is less
than two disjoint claims could free together, and never more than is true. GPUs that are reserved are paid for whether
they are used or not: at each moment only what was held beyond the reservation is money. From this follows, whatever is
claimed: no account saves more than it cost, nor do all together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.errors import OptiInfraError


class AccountError(OptiInfraError):
    """A claim that cannot be booked; names the account and what is wrong with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """GPUs of one kind that one holder held."""

    holder: str
    """namespace/workload; "" for GPUs that nobody held."""
    gpu: str
    """Kind of GPU: what reservations are made of."""
    held: FloatArray
    """(points,) GPUs, 0 where that is not known."""
    gpu_hour: Value
    """What one of them costs an hour."""
    saved_gpu_hour: Value
    """What is no longer paid an hour once it is given back; at most the price."""

    @property
    def key(self) -> tuple[str, str]:
        """Return holder and kind."""
        return self.holder, self.gpu


@dataclass(frozen=True, slots=True)
class Booked:
    """What came of a claim."""

    gpu_hours: float
    """Freed by itself, at most what was held."""
    counted: float
    """Of those, the ones that were not freed before."""
    unpaid: float
    """Counted ones that are reserved."""
    unpriced: float
    """Counted ones without a price."""
    money: Value
    """Unknown where nothing of what it frees has a price."""


class Ledger:
    """Accounts and what was freed of them; claims are booked in the order of their worth."""

    def __init__(self, accounts: Sequence[Account], *, step_s: float, reserved: Mapping[str, float]) -> None:
        """Open the accounts. `reserved` is GPUs by kind. Raises AccountError where two are the same."""
        self._accounts = {one.key: one for one in accounts}
        if len(self._accounts) != len(accounts):
            raise AccountError("two accounts of one holder and kind: join them")
        self._hours = step_s / 3600.0
        self._freed = {key: np.zeros(len(one.held)) for key, one in self._accounts.items()}
        self._open: dict[str, FloatArray] = {}
        """GPUs of a kind beyond the reservation that are still paid for, over time."""
        for one in accounts:
            self._open[one.gpu] = self._open.get(one.gpu, np.zeros(len(one.held))) + one.held
        for gpu, held in self._open.items():
            self._open[gpu] = np.maximum(held - max(0.0, reserved.get(gpu, 0.0)), 0.0)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts."""
        return tuple(self._accounts.values())

    def cost(self, account: Account) -> Value:
        """Return what an account cost over the whole window."""
        hours = float(account.held.sum()) * self._hours
        if isinstance(account.gpu_hour, Unknown):
            return account.gpu_hour if hours > 0.0 else 0.0
        return hours * account.gpu_hour

    def worth(self, claims: Sequence[tuple[Account, FloatArray]]) -> Booked:
        """Say what claims would come to now, without booking them."""
        return self._taken(claims, book=False, apart=False)

    def book(self, claims: Sequence[tuple[Account, FloatArray]], *, apart: bool = False) -> Booked:
        """Book what one proposal frees: (account, GPUs freed over time (points,)) each. Raises AccountError.

        `apart`: these are other GPUs than those of earlier claims (another node's), so that the two add up.
        """
        return self._taken(claims, book=True, apart=apart)

    def _taken(self, claims: Sequence[tuple[Account, FloatArray]], *, book: bool, apart: bool) -> Booked:
        gross = counted = unpaid = unpriced = money = 0.0
        missing: Unknown | None = None
        opened = self._open if book else dict(self._open)
        freed = self._freed if book else dict(self._freed)
        for account, claimed in claims:
            known = self._accounts.get(account.key)
            if known is None or len(claimed) != len(known.held):
                raise AccountError(f"no account of {account.key} with {len(claimed)} points: claim what was opened")
            asked = np.clip(np.nan_to_num(claimed), 0.0, known.held)
            before = freed[account.key]
            new = np.minimum(asked, known.held - before) if apart else np.maximum(asked - before, 0.0)
            paid = np.minimum(new, opened[account.gpu])
            freed[account.key] = before + new
            opened[account.gpu] = opened[account.gpu] - paid
            gross += float(asked.sum()) * self._hours
            counted += float(new.sum()) * self._hours
            paid_hours = float(paid.sum()) * self._hours
            price, cost = known.saved_gpu_hour, known.gpu_hour
            if isinstance(price, Unknown) or isinstance(cost, Unknown):
                missing = cost if isinstance(cost, Unknown) else price if isinstance(price, Unknown) else None
                unpriced += float(new.sum()) * self._hours
                continue
            unpaid += float((new - paid).sum()) * self._hours
            if price <= 0.0:
                unpaid += paid_hours
            money += paid_hours * min(price, cost)
        if missing is not None and unpriced >= counted > 0.0:
            return Booked(gross, counted, unpaid, unpriced, missing)
        return Booked(gross, counted, unpaid, unpriced, money)
