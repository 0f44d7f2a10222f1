"""A quick version of the bench: the recordings, and some regimes of those that thresholds were chosen on."""

import pytest

from bench.bottleneck import TOLD, WANTED_F1, WANTED_SCRAPES, Score, judge, recorded, simulated
from optiinfra_sim.regimes import TUNING

FEW = (
    "healthy-prefix-cache-full", "healthy-high-kv", "batch-limit-begins", "kv-short", "decode-bound", "host-starved",
    "adapter-slots", "remote-cache-slow",
)  # fmt: skip


def scored(cases, *, agent, arguments):
    score = Score()
    for case in cases:
        judge(case, score, agent=agent, arguments=arguments)
    return score


@pytest.mark.parametrize("arguments", [True, False])
def test_recordings_of_real_engines(arguments):
    score = scored(recorded(), agent=False, arguments=arguments)
    assert score.macro_f1 >= WANTED_F1
    assert max(scrapes for _, scrapes in score.late) <= WANTED_SCRAPES
    assert not sum(flaps for _, flaps in score.flaps)
    assert score.labels == ["Batch", "Healthy", "Idle", "KVCache"]


def test_some_regimes_of_the_simulator():
    score = scored(simulated({name: TUNING[name] for name in FEW}), agent=True, arguments=True)
    assert score.macro_f1 >= WANTED_F1
    assert max(scrapes for _, scrapes in score.late) <= WANTED_SCRAPES
    assert score.false_kv == 0
    assert len(score.labels) == 7


def test_what_is_called_wrong_counts():
    score = Score()
    score.pairs.update(
        {("Batch", "Batch"): 3, ("Batch", "Queue"): 1, ("Healthy", "Batch"): 1, ("Healthy", "Healthy"): 5}
    )
    precision, recall, f1 = score.figures("Batch")
    assert (precision, recall) == (0.75, 0.75)
    assert f1 == pytest.approx(0.75)
    assert score.macro_f1 == pytest.approx((0.75 + 2 * 5 / 6 / (1 + 5 / 6)) / 2)


def test_the_sets_say_what_they_are():
    assert set(TOLD) == {"recordings", "tuning", "judging"}
