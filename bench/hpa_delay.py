"""What a late actuator does to a decision: every order of a rule is carried out so many syncs after it was given.

`python -m bench.hpa_delay` plays it in the model alone, over the whole trace beside the benches (or `--traces FOLDER`).
A metric behind an adapter and a Prometheus is half a minute old and more when the HPA reads it, so a rule has to bear
that what runs is not yet what it asked for. Nothing of a cluster is in here: bench/hpa.py measures the real delay.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.hpa import OWN_TRACE
from bench.hpa_loop import TARGET
from bench.hpa_runs import REPLICAS, START_UP_S
from bench.hpa_steps import MAXIMUM
from bench.scaling_loads import SEED
from bench.traces import TraceError, folder
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.figures import Figures, Ledger
from optiinfra.domain.replay.fluid import SYNC_S, Fleet, FloatArray, IntArray, Policy, View, first_replicas, play
from optiinfra.domain.replay.learned import Learned

DELAYS: Final = (0, 1, 2, 3, 4)
"""In syncs of 15 s."""
RULES: Final[dict[str, Callable[[Fleet], Policy]]] = {
    "HPA, rate 0.7": lambda _: HpaRate(np.array([TARGET])),
    "OptiInfra": Learned,
}


class Late:
    """A rule whose orders take effect some syncs after they were given; until then the older one stands."""

    def __init__(self, rule: Policy, *, syncs: int) -> None:
        self._rule = rule
        self._under_way: deque[IntArray] = deque(maxlen=syncs + 1)

    def __call__(self, view: View) -> IntArray:
        """Ask for what the rule wanted then; for what runs while no order is old enough."""
        self._under_way.append(np.array(self._rule(view)))
        full = len(self._under_way) == self._under_way.maxlen
        return self._under_way[0] if full else view.replicas


def late(load: FloatArray, make: Callable[[Fleet], Policy], *, syncs: int) -> Figures:
    """Play one rule over a load (steps,) with orders that come so many syncs late."""
    one = np.ones(1, dtype=np.int64)
    loads = load[None, :]
    fleet = Fleet(
        loads,
        start_up_s=np.array([START_UP_S]),
        initial=first_replicas(loads, minimum=one),
        minimum=one,
        maximum=one * MAXIMUM,
    )
    return Ledger.of(play(fleet, Late(make(fleet), syncs=syncs))).figures()[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=OWN_TRACE, help="folder of trace files (default: the one here)")
    parser.add_argument("--only", default="bursty", help="part of the names of the traces to play (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of drawn arrivals")
    options = parser.parse_args(arguments)
    try:
        traces = [one for one in folder(options.traces, bursty_seed=options.seed) if options.only in one.name]
    except TraceError as error:
        parser.error(str(error))
    print("| trace | carried out after | rule | cost | late10 | incidents per 30 days | actions a day |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for trace in traces:
        for syncs in DELAYS:
            for name, make in RULES.items():
                one = late(trace.at(REPLICAS), make, syncs=syncs)
                print(
                    f"| {trace.name} | {syncs * SYNC_S:.0f} s | {name} | {one.cost:.3f} | {one.late10:.2%} "
                    f"| {one.incidents:.0f} | {one.actions_per_day:.0f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
