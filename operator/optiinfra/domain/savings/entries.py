"""One line of the ledger: what changed, from what to what, when, by whom, and what it has come to.

An entry frees a number of units of one axis (replicas, or GPUs, cores, GiB of each replica); a negative number is
capacity that was added. It is open for as long as the change stands. What it has come to (`accrued`) only ever moves by
what was observed; an entry that ended keeps it.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from optiinfra.domain.savings.amounts import EPSILON, Amounts, Capacity
from optiinfra.domain.units import UnixTime


class Axis(StrEnum):
    """What a change is counted in."""

    REPLICAS = "Replicas"
    GPUS = "GPUs"
    """GPUs that each replica asks for."""
    CPU = "CPU"
    """Cores that each replica asks for."""
    MEMORY = "Memory"
    """GiB that each replica asks for."""


class Cause(StrEnum):
    """Who made a change."""

    ACTION = "Action"
    """An action of the operator."""
    ADOPTED = "Adopted"
    """Somebody did what a recommendation said."""
    SCALER = "Scaler"
    """A scaler that does not follow the operator."""
    OTHERS = "Others"
    """A person, or another controller."""


CLAIMED: Final = frozenset({Cause.ACTION, Cause.ADOPTED})
"""What the operator counts as its own doing; the rest is written down and not claimed."""


class Basis(StrEnum):
    """What a claim rests on."""

    MEASURED = "Measured"
    """Before and after were both observed."""
    COUNTERFACTUAL = "Counterfactual"
    """Against what would have run otherwise; the method is named."""


class End(StrEnum):
    """Why an entry ended."""

    TAKEN_BACK = "TakenBack"
    """The change was undone, wholly or step by step."""
    ROLLED_BACK = "RolledBack"
    """The operator undid it because it did harm."""
    REPLACED = "Replaced"
    """The workload was deleted and made anew: nothing can be compared."""
    GONE = "Gone"
    """The object no longer names the workload."""
    COMPARED = "Compared"
    """A scaler follows the operator from now on: what its replicas save is measured against a plain HPA."""
    NOT_FOLLOWED = "NotFollowed"
    """The workload's scaler does not follow the operator any more."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Nodes that can stand in for each other: those of a pool with GPUs of one model."""

    pool: str = ""
    """Empty where no pool is known."""
    gpu_model: str = ""
    """Empty for nodes without GPUs."""


NOWHERE: Final = Place()
HPA_METHOD: Final = "HPA on the rate of work, target 0.7, on the same load"
"""What a counterfactual claim on replicas is measured against."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change and what it has come to."""

    id: int
    """Unique in its ledger, never used twice."""
    target: str
    axis: Axis
    cause: Cause
    by: str
    """Id of the action or of the recommendation, or the scaler's name; empty for others."""
    basis: Basis
    method: str
    """How a counterfactual was had; empty for what was measured."""
    opened: UnixTime
    before: float
    after: float
    """As first observed, in units of the axis."""
    amount: float
    """Units that it frees now; negative where capacity was added."""
    place: Place = NOWHERE
    """Where its pods were."""
    verified: bool = False
    ended: UnixTime | None = None
    end: End | None = None
    accrued: Amounts = field(default_factory=Amounts)

    @property
    def open(self) -> bool:
        """Whether the change still stands."""
        return self.ended is None

    @property
    def running(self) -> bool:
        """Whether it is one entry for everything of its kind, of which the amount moves."""
        return self.basis is Basis.COUNTERFACTUAL or self.cause is Cause.SCALER

    def closed(self, at: UnixTime, end: End) -> "Entry":
        """Return it ended."""
        return replace(self, amount=0.0, ended=at, end=end)

    def freed(self, *, replicas: int, base_size: Capacity) -> Capacity:
        """Return what it frees now: a replica as large as at the beginning, or its part of each replica that runs.

        Counted so, replicas and size never count the same GPU twice, in whatever order they changed:
        n0 s0 - n s = (n0 - n) s0 + n (s0 - s).
        """
        match self.axis:
            case Axis.REPLICAS:
                return base_size.times(self.amount)
            case Axis.GPUS:
                return Capacity(gpus=self.amount * replicas)
            case Axis.CPU:
                return Capacity(cpu_cores=self.amount * replicas)
            case Axis.MEMORY:
                return Capacity(memory_gib=self.amount * replicas)


def is_zero(amount: float) -> bool:
    """Tell whether an amount is rounding."""
    return abs(amount) <= EPSILON
