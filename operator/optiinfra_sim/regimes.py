"""All labelled regimes for tests of the bottleneck analysis: ``TUNING`` to tune on, ``JUDGING`` to be judged on.

The two share no parameter set and no seed; a test sees to it. What a label means, and how a regime is played, is in
:mod:`optiinfra_sim.regime`.

    for name, regime in JUDGING.items():
        for scrape in play(regime):
            scrape.time, scrape.pages["replica-0"], scrape.gpus["replica-0"], scrape.starting_replicas, scrape.truth
"""

from optiinfra_sim.regime import Change, GpuFacts, Label, Regime, Scrape, Stream, Truth, play
from optiinfra_sim.regimes_judging import JUDGING
from optiinfra_sim.regimes_tuning import TUNING

__all__ = ["JUDGING", "TUNING", "Change", "GpuFacts", "Label", "Regime", "Scrape", "Stream", "Truth", "play"]
