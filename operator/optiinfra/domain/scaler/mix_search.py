"""The exact search behind `mix`: the cheapest counts whose capacity covers a need, in whole numbers.

Variants are taken one after the other. After each, only combinations of the first ones are kept that could still be
part of the answer: whose cost, plus what the linear relaxation says the rest must cost, is not above a known answer,
and which no other combination beats in cost and in what is left to cover. Everything is an integer, so that sums do
not depend on their order and equal costs are equal. Ties go to the fewest replicas that must be started, then the
fewest GPUs, the fewest replicas, the most capacity, and the name that comes first.

The number of combinations that are looked at is bounded (`MOST_CELLS`, `MOST_STATES`). Where the bound is met the
answer may not be the cheapest; it says by how much it could be dearer (and a need at the very edge of the GPUs that
are allowed may be called out of reach). It is hardly ever met with two to four variants; eight of 512 replicas that all
cost nearly the same do meet it. What runs now is an answer that is always looked at. Nothing is decided here about
time, readiness or what happens when the need cannot be met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.scaler.mix_states import MILLION, Bools, Floats, Ints, Problem, Relaxation, States

MOST_VARIANTS: Final = 8
MOST_CELLS: Final = 100_000
"""Combinations that are looked at when a variant is added; with it no search takes a second."""
MOST_STATES: Final = 4_000
"""Combinations that are carried on to the next variant."""
_PAIRWISE: Final = 400
_ROUNDS: Final = 8
_FAR: Final = 2**62


@dataclass(frozen=True, slots=True)
class Found:
    """The cheapest counts, in the order of the items."""

    counts: tuple[int, ...]
    gap: float
    """The cheapest answer is at most this share cheaper; 0 where the search was complete."""


class _Search:
    """One run. `limit` is the cost of the best answer known; what is surely dearer is dropped."""

    def __init__(self, problem: Problem, need: int, *, below: float) -> None:
        self.problem = problem
        self.need = need
        items = problem.items
        self.low = [item.lowest for item in items]
        self.high = [item.highest for item in items]
        grouped = problem.spot_share < MILLION
        self.shares = [min(i.share, problem.spot_share) if i.spot and grouped else i.share for i in items]
        # Spot first: only when all of it is counted is it known what the rest must carry. The cheapest come last:
        # they fill what is left, and the few that the dear ones may be are enumerated before.
        bounded = [i for i, share in enumerate(self.shares) if share < MILLION]
        free = [i for i in range(len(items)) if i not in bounded]
        self.bounded = len(bounded)
        self.spots = sum(grouped and items[i].spot for i in bounded)
        by_price = [(item.keep + item.start) / item.capacity for item in items]
        self.order = sorted(bounded, key=lambda i: (not (grouped and items[i].spot), i))
        self.order += sorted(free, key=lambda i: (-by_price[i], i))
        self.cheap_first = sorted(range(len(items)), key=lambda i: (by_price[i], i))
        self.limit = below
        self.dropped = self.spot_room = float(_FAR)
        self.best: tuple[int, ...] | None = None
        self.tables = [item.costs() for item in items]
        self.states = self._begin()

    def run(self) -> Found | None:
        """Return the best counts; None where none covers the need within the limits."""
        self._first_answer()
        if not self._narrow():
            return None
        self.states = self._begin()
        for step, index in enumerate(self.order):
            if 0 < step < len(self.order) - 1:
                self._complete(step)
            rest = self._rest(self.order[step + 1 :])
            self._expand(index, step, rest)
            if step == self.spots - 1:
                self._count_spot()
            self._prune(step, rest)
            if not len(self.states):
                return self._known()
        best = int(self.states.rank().argmin())
        cost = float(self.states.cost[best])
        if cost > self.limit:
            return self._known()
        return Found(self.states.counts(best, len(self.order)), self._gap(cost))

    def _known(self) -> Found | None:
        """Return the answer that was come by on the way, for a search that was cut short."""
        return None if self.best is None else Found(self.best, self._gap(self.limit))

    def _gap(self, cost: float) -> float:
        return max(0.0, 1.0 - self.dropped / cost) if cost > 0.0 else 0.0

    def _begin(self) -> States:
        """Every variant at its lowest count."""
        rows = list(zip(self.problem.items, self.low, strict=True))
        return States.of(
            self.low,
            cost=sum(item.cost_of(low) for item, low in rows),
            ties=sum(item.ties_of(low) for item, low in rows),
            covered=sum(low * item.capacity for item, low in rows),
            wanted=self.need,
            spot=sum(low * item.capacity for item, low in rows if item.spot),
            gpus=sum(max(low, item.current) * item.gpus for item, low in rows),
        )

    def _rest(self, indices: Sequence[int]) -> Relaxation:
        items = self.problem.items
        return Relaxation(
            [part for i in indices for part in items[i].segments(self.low[i], self.high[i])], self.spot_room
        )

    def _first_answer(self) -> None:
        """Keep what runs, or fill up with the cheapest first, within every share of the need: whatever costs less."""
        asis = [min(max(item.current, item.lowest), item.highest) for item in self.problem.items]
        if self.problem.fits(asis, self.need):
            # So that a search that is cut short changes nothing that is as cheap.
            self._offer(asis)
        items, counts, left = self.problem.items, list(self.low), self.need
        left -= sum(low * item.capacity for item, low in zip(items, self.low, strict=True))
        room = self.need * self.problem.spot_share // MILLION
        room -= sum(low * item.capacity for item, low in zip(items, self.low, strict=True) if item.spot)
        for index in self.cheap_first:
            item, most = items[index], self.high[index]
            if self.shares[index] < MILLION:
                most = min(most, self.need * self.shares[index] // (MILLION * item.capacity))
            if item.spot:
                most = min(most, counts[index] + max(0, room) // item.capacity)
            above = min(most, counts[index] + max(0, -(-left // item.capacity)))
            if left - (above - counts[index]) * item.capacity <= 0:
                self._offer([*counts[:index], max(above, counts[index]), *counts[index + 1 :]])
            below = max(counts[index], min(most, counts[index] + max(0, left // item.capacity)))
            left -= (below - counts[index]) * item.capacity
            room -= (below - counts[index]) * item.capacity if item.spot else 0
            counts[index] = below

    def _offer(self, counts: Sequence[int]) -> None:
        """Take counts that meet the need and every share for an answer, if they are the cheapest so far."""
        rows = list(zip(self.problem.items, counts, strict=True))
        cost = float(sum(item.cost_of(count) for item, count in rows))
        held = sum(max(count, item.current) * item.gpus for item, count in rows)
        if cost < self.limit and (self.problem.gpus is None or held <= self.problem.gpus):
            self.limit, self.best = cost, tuple(counts)

    def _narrow(self) -> bool:
        """Leave out counts that are surely part of no better answer; False where nothing covers the need."""
        items, everything = self.problem.items, range(len(self.order))
        cost = sum(item.cost_of(low) for item, low in zip(items, self.low, strict=True))
        covered = sum(low * item.capacity for item, low in zip(items, self.low, strict=True))
        spot = sum(low * item.capacity for item, low in zip(items, self.low, strict=True) if item.spot)
        for _ in range(_ROUNDS if self.bounded else 0):
            # No answer that is as cheap has more capacity than this, and no share is larger than its part of it.
            most = covered + self._rest(everything).most(self.limit - cost)
            if self.spots:
                self.spot_room = max(0.0, most * self.problem.spot_share / MILLION * (1.0 + 1e-9) + 1.0 - spot)
            before = sum(self.high)
            for i, item in enumerate(items):
                if self.shares[i] < MILLION:
                    within = int(most * self.shares[i] / MILLION * (1.0 + 1e-9)) // item.capacity + 1
                    self.high[i] = max(item.lowest, min(self.high[i], within))
            if before - sum(self.high) <= before // 16:
                break
        for i, item in enumerate(items):
            replicas = np.arange(self.low[i], self.high[i] + 1, dtype=np.int64)
            others = self._rest([j for j in everything if j != i])
            wanted = np.maximum(self.need, self._asked(i, replicas))
            left = wanted - (covered - self.low[i] * item.capacity) - replicas * item.capacity
            own = self.tables[i][0][self.low[i] - item.lowest : self.high[i] + 1 - item.lowest]
            bound = own + (cost - item.cost_of(self.low[i])) + others.least(np.maximum(left, 0))
            good = np.nonzero(self._bearable(bound))[0]
            if not len(good):
                return False
            low, self.high[i] = int(replicas[good[0]]), int(replicas[good[-1]])
            cost += item.cost_of(low) - item.cost_of(self.low[i])
            covered += (low - self.low[i]) * item.capacity
            self.low[i] = low
        return True

    def _asked(self, index: int, replicas: Ints) -> Ints:
        """Capacity that all must have so that these replicas keep their share; minimums are the user's."""
        item, share = self.problem.items[index], self.shares[index]
        if share >= MILLION:
            return np.zeros_like(replicas)
        return np.where(replicas > item.lowest, -(-(replicas * item.capacity * MILLION) // max(1, share)), 0)

    def _bearable(self, bound: Floats) -> Bools:
        return bound <= min(self.limit * (1.0 + 1e-9) + 1.0, float(_FAR))

    def _expand(self, index: int, step: int, rest: Relaxation) -> None:
        """Try every useful count of one variant on every state."""
        item, states, low = self.problem.items[index], self.states, self.low[index]
        width = np.full(len(states), self.high[index] - low, dtype=np.int64)
        least = np.zeros_like(width)
        if step >= self.bounded - 1:
            # Nothing after it can ask for more than is left now.
            width = np.minimum(width, -(-states.left // item.capacity))
        if self.bounded <= step == len(self.order) - 1:
            least = width
        cells = width - least + 1
        if cells.sum() > MOST_CELLS:
            bound = states.cost + self._rest([index, *self.order[step + 1 :]]).least(states.left)
            order = np.argsort(bound, kind="stable")
            kept = order[np.cumsum(cells[order]) <= MOST_CELLS]
            self.dropped = min(self.dropped, float(bound[order[len(kept)]]))
            states, least, cells = states.at(kept), least[kept], cells[kept]
        row = np.repeat(np.arange(len(states)), cells)
        more = np.arange(len(row)) - np.repeat(np.cumsum(cells) - cells, cells) + least[row]
        cost, ties = (table[more + (low - item.lowest)] - table[low - item.lowest] for table in self.tables[index])
        bound = states.cost[row] + cost + rest.least(np.maximum(states.left[row] - more * item.capacity, 0))
        good = np.nonzero(self._bearable(bound))[0]
        row, more, cost, ties = row[good], more[good], cost[good], ties[good]
        held = self.problem.held(index, more + low) - self.problem.held(index, np.full_like(more, low))
        new = states.at(row).added(item, index, cost=cost, ties=ties, replicas=more, held=held)
        new.wanted = np.maximum(new.wanted, self._asked(index, more + low))
        self.states = new

    def _count_spot(self) -> None:
        """All spot variants are counted: the rest must be large enough beside them. Minimums are the user's."""
        states, lowest = self.states, sum(i.lowest * i.capacity for i in self.problem.items if i.spot)
        asked = -(-(states.spot * MILLION) // max(1, self.problem.spot_share))
        states.wanted = np.where(states.spot > lowest, np.maximum(states.wanted, asked), states.wanted)

    def _prune(self, step: int, rest: Relaxation) -> None:
        states = self.states
        bound = states.cost + rest.least(states.left)
        keep = self._bearable(bound)
        if self.problem.gpus is not None:
            keep &= states.gpus <= self.problem.gpus
        states, bound = states.at(keep), bound[keep]
        kept = self._undominated(states, step)
        states, bound = states.at(kept), bound[kept]
        if len(states) > MOST_STATES:
            order = np.argsort(bound, kind="stable")
            self.dropped = min(self.dropped, float(bound[order[MOST_STATES]]))
            states = states.at(order[:MOST_STATES])
        self.states = states

    def _undominated(self, states: States, step: int) -> Ints:
        """Rows that no other row beats whatever the rest turns out to be."""
        if len(states) <= 1:
            return np.arange(len(states))
        rank, left = states.rank(), states.left
        if step >= self.bounded - 1 and self.problem.gpus is None:
            order = np.lexsort((rank, left))
            best = np.minimum.accumulate(rank[order])
            return order[np.concatenate(([True], rank[order][1:] < best[:-1]))]
        if len(states) > _PAIRWISE:
            return np.arange(len(states))
        beats = (rank[:, None] < rank[None, :]) & (left[:, None] <= left[None, :])
        beats &= states.gpus[:, None] <= states.gpus[None, :]
        if step < self.bounded - 1:
            # A share may still raise what is wanted: then capacity counts by itself, and more of spot harms.
            beats &= states.covered[:, None] >= states.covered[None, :]
        if step < self.spots - 1:
            beats &= states.spot[:, None] <= states.spot[None, :]
        return np.nonzero(~beats.any(axis=0))[0]

    def _complete(self, step: int) -> None:
        """Finish each state in a simple way that keeps every share of the need: an answer is no dearer than that."""
        states, undecided = self.states, set(self.order[step:])
        taken: dict[int, Ints] = {}
        cost, gpus, spot, wanted = states.cost.copy(), states.gpus.copy(), states.spot.copy(), states.wanted
        for index in undecided:
            wanted = np.maximum(wanted, self._asked(index, np.array([self.low[index]])))
        left = np.maximum(wanted - states.covered, 0)
        room = self.need * self.problem.spot_share // MILLION
        lowest = sum(i.lowest * i.capacity for i in self.problem.items if i.spot)
        kept = (spot <= max(room, lowest)) | (step >= self.spots)
        for index in (i for i in self.cheap_first if i in undecided):
            item, low = self.problem.items[index], self.low[index]
            table = self.tables[index][0][low - item.lowest :]
            most = np.full(len(states), self.high[index] - low, dtype=np.int64)
            if self.shares[index] < MILLION:
                within = self.need * self.shares[index] // (MILLION * item.capacity) - low
                most = np.minimum(most, max(0, within))
                if item.spot and self.problem.spot_share < MILLION:
                    most = np.minimum(most, np.maximum(room - spot, 0) // item.capacity)
            above = np.minimum(-(-left // item.capacity), most)
            base = self.problem.held(index, np.full_like(left, low))
            good = kept & (left <= above * item.capacity)
            if self.problem.gpus is not None:
                good &= gpus + self.problem.held(index, above + low) - base <= self.problem.gpus
            whole = np.where(good, cost + table[above] - table[0], _FAR)
            row = int(whole.argmin())
            if whole[row] < self.limit:
                self.limit = float(whole[row])
                counts = self.states.counts(row, len(self.order))
                more = {i: int(array[row]) for i, array in (taken | {index: above}).items()}
                self.best = tuple(count + more.get(i, 0) for i, count in enumerate(counts))
            below = np.minimum(left // item.capacity, most)
            taken[index] = below
            cost += table[below] - table[0]
            gpus += self.problem.held(index, below + low) - base
            spot += below * item.capacity if item.spot else 0
            left = left - below * item.capacity


def cheapest(problem: Problem, need: int, *, below: float = float(_FAR)) -> Found | None:
    """Return the cheapest counts that cover `need`; None where none does within the limits, at a cost below `below`."""
    most = sum(item.highest * item.capacity for item in problem.items)
    return None if need > most or not problem.items else _Search(problem, need, below=below).run()


def reach(problem: Problem) -> int:
    """Most capacity that shares and maxima allow, without regard to GPUs and to the share of all spot variants.

    The counts that keep all shares are closed under taking the larger of two, so there is one largest of them: it is
    what is left when counts above their share are lowered until none is.
    """
    counts = [item.highest for item in problem.items]
    while True:
        total = sum(count * item.capacity for count, item in zip(counts, problem.items, strict=True))
        allowed = [
            max(item.lowest, min(count, total * item.share // (MILLION * item.capacity)))
            for count, item in zip(counts, problem.items, strict=True)
        ]
        if allowed == counts:
            return total
        counts = allowed


def most_reachable(problem: Problem, need: int) -> int:
    """Return the largest need, up to `need`, that some counts cover; -1 where even the minimums are not allowed."""
    if cheapest(problem, 0) is None:
        return -1
    met = 0
    for bit in reversed(range(need.bit_length())):
        tried = met + 2**bit
        if tried <= need and cheapest(problem, tried) is not None:
            met = tried
    return met
