"""The closed loop: load, queue and start-ups of the fluid model in compressed time, and the real controller decides.

Each second on the wall is a sync of 15 s. At its beginning a party publishes a metric; the controller reads it whenever
its own sync comes and scales a Deployment; three times a second the Deployment's number is taken over by the model. So
the controller's phase, its tolerance, its window and its policies are in the figures, and so is, fifteen-fold, the time
that the machine needs. Start-ups are the model's: the pods exist because the controller counts them.

What came before the played hour is lived through in the model alone, with the party's own decisions, so that a scaler
that learns has something to have learned. The same moment goes on twice: with the controller, and without (`direct`).
Where the HPA keeps its window for falls, it goes on a third time: a count held for five minutes costs more than the
rule alone, and only a model that holds it as well can be compared with the controller (`modelled`).
"""

import copy
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.hpa_steps import CAPACITY, MAXIMUM
from hack.real_hpa import DEFAULT_BEHAVIOR, Behavior, Question, Seen
from hack.real_hpa.clock import SPEED, TICK_SECONDS
from optiinfra.cluster.own_scaler import OwnScaler, build_own_scaler
from optiinfra.domain.policy import beyond_tolerance
from optiinfra.domain.replay.baselines import HpaRate, Stabilized
from optiinfra.domain.replay.figures import Figures, Ledger
from optiinfra.domain.replay.fluid import (
    STEP_S,
    STEPS_PER_SYNC,
    SYNC_S,
    Fleet,
    FloatArray,
    Policy,
    View,
    first_replicas,
)
from optiinfra.domain.replay.learned import Learned

TOLERANCE: Final = 0.1
"""The controller's default."""
TARGET: Final = 0.7
WITHOUT_WINDOW: Final[Behavior] = DEFAULT_BEHAVIOR | {
    "scaleDown": {**DEFAULT_BEHAVIOR["scaleDown"], "stabilizationWindowSeconds": 0}
}
MINUTE_STEPS: Final = round(60.0 / STEP_S)


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a load, and what is known of its past."""

    name: str
    load: FloatArray
    """(steps,): in replicas, from the beginning of the history to the end of the piece."""
    start: int
    """Syncs of history before the piece."""
    start_up_s: float

    @property
    def syncs(self) -> int:
        """Length of the piece."""
        return len(self.load) // STEPS_PER_SYNC - self.start


@dataclass(frozen=True, slots=True)
class Way:
    """How a decision reaches the controller."""

    name: str
    rule: Callable[[Fleet], Policy]
    publish: Callable[[Policy, View], "Published"]
    """The metric's total, from the rule and what it may see now."""
    average: float
    """The HPA's AverageValue."""
    behavior: Behavior | None = None

    @property
    def tolerance(self) -> float:
        """Within which share of what runs the controller ignores a count."""
        return float((self.behavior or {}).get("scaleUp", {}).get("tolerance", TOLERANCE))

    @property
    def holds_counts(self) -> bool:
        """Whether the controller's window of five minutes stands between our count and a fall."""
        return self.publish is not _total and self.behavior is None


def ways() -> tuple[Way, ...]:
    """The plain rate metric; our decision as the documentation says, for `Signal` and `Own`; and each piece left out.

    `Signal` is published outside of the HPA's tolerance, on an HPA whose window for falls is zero: the operator has
    held already. Left out are the window's zero, and the step out of the tolerance.
    """
    own = build_own_scaler(
        OwnScaler(
            namespace="any",
            owner_name="any",
            owner_uid="any",
            target_api_version="apps/v1",
            target_kind="Deployment",
            target_name="any",
            min_replicas=1,
            max_replicas=MAXIMUM,
            server_minor=36,
        )
    )
    return (
        Way("HPA, rate 0.7", _rate, _total, TARGET * CAPACITY),
        Way("Signal", Learned, _audible, 1.0, WITHOUT_WINDOW),
        Way("Own", Learned, _decided, 1.0, own["spec"]["behavior"]),
        Way("Signal, HPA with its window", Learned, _audible, 1.0),
        Way("Signal, count as it is", Learned, _decided, 1.0, WITHOUT_WINDOW),
    )


def _rate(fleet: Fleet) -> HpaRate:
    return HpaRate(np.full(len(fleet.load), TARGET))


@dataclass(frozen=True, slots=True)
class Published:
    """What a rule wants, and the metric that is to bring it about."""

    wanted: float
    told: float


def _total(rule: Policy, view: View) -> Published:
    assert isinstance(rule, HpaRate)
    total = float(rule.metric(view)[0]) * CAPACITY
    return Published(total, total)


def _decided(rule: Policy, view: View) -> Published:
    count = float(rule(view)[0])
    return Published(count, count)


def _audible(rule: Policy, view: View) -> Published:
    """Publish as actuation `Signal` does: outside of the band in which an HPA with the usual tolerance is deaf."""
    count = int(rule(view)[0])
    told = beyond_tolerance(
        count,
        current=int(view.replicas[0]),
        tolerance_up=TOLERANCE,
        tolerance_down=TOLERANCE,
        maximum=MAXIMUM,
    )
    return Published(float(count), float(told))


@dataclass(slots=True)
class Order:
    """A count that was published, and what became of it until the next one."""

    step: int
    at: float
    """Wall seconds."""
    value: float
    running: int
    """Replicas asked for at that moment."""
    read: float | None = None
    """Wall seconds until the controller asked."""
    followed: int | None = None
    """Steps until the Deployment had that number."""


@dataclass(slots=True)
class Party:
    """One way of scaling one slice, while it is played."""

    name: str
    way: Way
    piece: Slice
    fleet: Fleet
    rule: Policy
    direct: Figures
    """What the rule alone makes of the piece in the model."""
    modelled: Figures
    """The same with the controller's window for falls, where the HPA keeps it."""
    published: float = 0.0
    bent: list[float] = field(default_factory=list)
    """Counts that were published as another one, each until the rule wanted something else."""
    orders: list[Order] = field(default_factory=list)
    questions: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _last_wanted: float | None = None

    def answer(self, question: Question) -> float:
        """Tell the controller what is published."""
        with self.lock:
            self.questions.append(question.at)
            if self.orders and self.orders[-1].read is None:
                self.orders[-1].read = question.at - self.orders[-1].at
            return self.published

    def decide(self) -> None:
        """Publish for the sync that begins."""
        decision = self.way.publish(self.rule, View(self.fleet))
        value = decision.told
        if decision.wanted not in {value, self._last_wanted}:
            self.bent.append(decision.wanted)
        self._last_wanted = decision.wanted
        with self.lock:
            if value != self.published or not self.orders:
                self.orders.append(Order(self.fleet.step, time.monotonic(), value, int(self.fleet.replicas[0])))
            self.published = value

    def follow(self, seen: Seen) -> None:
        """Take over what the controller asked for."""
        if self.orders and self.orders[-1].followed is None and seen.asked == self.orders[-1].value:
            self.orders[-1].followed = self.fleet.step - self.orders[-1].step
        self.fleet.order(np.array([seen.asked]))

    def live(self) -> None:
        """Let one step of 5 s pass."""
        # The load as far as it has come: the model plays up to its end.
        self.fleet.load = self.piece.load[None, : self.fleet.step + 1]
        self.fleet.advance()

    @property
    def figures(self) -> Figures:
        """What the piece came to, with the controller."""
        whole = copy.copy(self.fleet)
        whole.load = self.piece.load[None, :]
        return Ledger.of(whole, count_from_s=self.piece.start * SYNC_S).figures()[0]


def prepared(piece: Slice, ways: Sequence[Way]) -> list[Party]:
    """Live through the history; then see what each rule alone makes of the piece, and go back to its beginning.

    Ways that share a rule share its history, which is most of the time that this takes.
    """
    lived: dict[Callable[[Fleet], Policy], tuple[Fleet, Policy]] = {}
    direct: dict[Callable[[Fleet], Policy], Figures] = {}
    for way in ways:
        if way.rule not in lived:
            lived[way.rule] = _lived(piece, way.rule)
            direct[way.rule] = _alone(piece, *lived[way.rule])
    parties = []
    for number, way in enumerate(ways):
        fleet, rule = copy.deepcopy(lived[way.rule])
        alone = direct[way.rule]
        modelled = _alone(piece, fleet, rule, hold=Stabilized()) if way.holds_counts else alone
        # A trace's name may be no name of an object.
        name = f"loop-{zlib.crc32(piece.name.encode()):08x}-{number}"
        parties.append(Party(name, way, piece, fleet, rule, alone, modelled))
    return parties


def _lived(piece: Slice, make: Callable[[Fleet], Policy]) -> tuple[Fleet, Policy]:
    load = piece.load[None, :]
    one = np.ones(1, dtype=np.int64)
    fleet = Fleet(
        load,
        start_up_s=np.array([piece.start_up_s]),
        initial=first_replicas(load, minimum=one),
        minimum=one,
        maximum=one * MAXIMUM,
    )
    rule = make(fleet)
    _play(fleet, rule, syncs=piece.start)
    return fleet, rule


def _alone(piece: Slice, fleet: Fleet, rule: Policy, *, hold: Stabilized | None = None) -> Figures:
    """Play the piece in the model, from a copy of the moment at which it begins."""
    alone, thought = copy.deepcopy((fleet, rule))
    _play(alone, thought, syncs=piece.syncs, hold=hold)
    return Ledger.of(alone, count_from_s=piece.start * SYNC_S).figures()[0]


def _play(fleet: Fleet, rule: Policy, *, syncs: int, hold: Stabilized | None = None) -> None:
    view = View(fleet)
    for _ in range(syncs):
        wanted = rule(view)
        fleet.order(wanted if hold is None else hold(wanted, sync=view.sync, current=view.replicas))
        fleet.advance()


def play_live(
    parties: Sequence[Party], look: Callable[[], dict[str, Seen]], *, on_sync: Callable[[int], None]
) -> float:
    """Play all parties at once, each to the end of its piece; return how many times longer than planned it took.

    A step that comes late moves all later ones: to catch up would leave the controller less time than the trace has.
    """
    steps = max(party.piece.syncs for party in parties) * STEPS_PER_SYNC
    planned = TICK_SECONDS / STEPS_PER_SYNC
    began = due = time.monotonic()
    for step in range(steps):
        playing = [party for party in parties if step < party.piece.syncs * STEPS_PER_SYNC]
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic()) + planned
        seen = look()
        for party in playing:
            # First what the controller did: a decision about an older number would be taken back in the next sync.
            party.follow(seen[party.name])
            if step % STEPS_PER_SYNC == 0:
                party.decide()
            party.live()
        if step % STEPS_PER_SYNC == 0:
            on_sync(step // STEPS_PER_SYNC)
    return (time.monotonic() - began) / (steps * planned) if planned else 1.0


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the counts that a party published, and how long it took. Times are seconds of the trace."""

    bent: int
    """Wanted counts that were not published as they are, because the controller would have ignored them."""
    orders: int
    followed: int
    tolerance: int
    """Within the tolerance of what ran, and ignored for that until the next count."""
    held: int
    """A fall that the window of the highest recommendation held back until the next count."""
    late: int
    """Neither: the next count came before the controller had acted."""
    until_read: float | None
    """Mean from publishing to the controller's question; None: it never asked."""
    until_scaled: float | None
    """Mean from publishing to the new number, of rises that were followed; seen every 5 s. None: there was none."""


def fate(party: Party) -> Fate:
    """Judge the published counts; only for ways whose metric is a count.

    One of the last minute that nothing came of yet is left out: nobody knows what would have.
    """
    end = party.fleet.step - MINUTE_STEPS
    settled = [order for order in party.orders if order.followed is not None or order.step < end]
    orders = [order for order in settled if order.value != order.running]
    followed = [order for order in orders if order.followed is not None]
    left = [order for order in orders if order.followed is None]
    deaf = [order for order in left if abs(order.value / order.running - 1.0) <= party.way.tolerance + 1e-9]
    held = [order for order in left if order.value < order.running and order not in deaf]
    reads = [order.read * SPEED for order in orders if order.read is not None]
    rises = [
        order.followed * STEP_S for order in followed if order.followed is not None and order.value > order.running
    ]
    return Fate(
        bent=len(party.bent),
        orders=len(orders),
        followed=len(followed),
        tolerance=len(deaf),
        held=len(held),
        late=len(left) - len(deaf) - len(held),
        until_read=float(np.mean(reads)) if reads else None,
        until_scaled=float(np.mean(rises)) if rises else None,
    )
