"""What limited a model, told from means and highest values of five minutes: by the cause that is known.

Made-up services of both kinds at several loads (`queue_past`), where it is known whether who waited waited for a place
in the batch or for something else, and the player's own models with other seeds than the benchmark's (`played_past`).
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report import crowds
from optiinfra.domain.report.history import Load
from optiinfra_sim.history_fleet import build
from optiinfra_sim.history_models import Label, plan
from tests.unit.domain.played_past import verdicts_of
from tests.unit.domain.queue_past import Line, verdicts
from tests.unit.domain.report_fleet import END

SPANS = 3.0
MISSING = Unknown(UnknownReason.NOT_MEASURED, "not told")
CALM = {Bottleneck.HEALTHY, Bottleneck.IDLE}
TOLD = {Label.KV_SHORT: Bottleneck.KV_CACHE, Label.BATCH_BOUND: Bottleneck.BATCH}


def shares(judged):
    counted = Counter(one.diagnosis.bottleneck for one in judged)
    return {kind: count / len(judged) for kind, count in counted.items()}


def foremost(judged):
    """What limited it for most of the time, calm hours aside; None where nothing did."""
    counted = Counter(one.diagnosis.bottleneck for one in judged if one.diagnosis.bottleneck not in CALM)
    return counted.most_common(1)[0][0] if counted else None


# ---- queues whose cause is known

FULL = [
    Line(load=places * use, places=places, replicas=replicas, unrest=unrest)
    for places in (8, 24, 128)
    for use in (0.85, 0.95, 1.1)
    for replicas in (1, 3)
    for unrest in (0.2, 0.6)
]
DOOR = [
    Line(load=24.0 * use, places=places, door=24.0 / 5.0, replicas=replicas)
    for places in (36, 64, 256)
    for use in (0.9, 1.0, 1.1)
    for replicas in (1, 3)
]
HEALTHY = [
    Line(load=places * use, places=places, replicas=replicas, unrest=0.2)
    for places in (24, 64, 256)
    for use in (0.3, 0.5, 0.6)
    for replicas in (1, 3)
]


@pytest.mark.parametrize(("seed", "known"), [(1, True), (2, False)], ids=["told", "inferred"])
def test_who_waits_for_places_is_told_so_at_any_load(seed, known):
    for line, judged in zip(FULL, verdicts(FULL, hours=SPANS, seed=seed, told=known), strict=True):
        assert foremost(judged) is Bottleneck.BATCH, (line, shares(judged))


@pytest.mark.parametrize(("seed", "known"), [(1, True), (2, False)], ids=["told", "inferred"])
def test_who_waits_beside_free_places_is_never_told_to_wait_for_them(seed, known):
    for line, judged in zip(DOOR, verdicts(DOOR, hours=SPANS, seed=seed, told=known), strict=True):
        assert Bottleneck.BATCH not in shares(judged), (line, shares(judged))
        assert foremost(judged) is Bottleneck.QUEUE, (line, shares(judged))


@pytest.mark.parametrize("seed", [3])
def test_a_service_with_room_is_left_in_peace(seed):
    for line, judged in zip(HEALTHY, verdicts(HEALTHY, hours=SPANS, seed=seed, told=True), strict=True):
        assert foremost(judged) is None, (line, shares(judged))


def test_one_full_replica_beside_free_ones_is_uneven_and_no_short_batch():
    lines = [Line(load=8.0, places=24, replicas=replicas, skew=3.6) for replicas in (2, 3, 5)]
    for line, judged in zip(lines, verdicts(lines, hours=SPANS, told=True), strict=True):
        reasons = {one.diagnosis.reason for one in judged if one.diagnosis.bottleneck not in CALM}
        assert reasons == {"UnevenLoad"}, (line, reasons)


# ---- the parts


def load_of(**courses):
    return replace(Load(), **{name: np.asarray(values, dtype=float) for name, values in courses.items()})


def test_a_burst_within_a_step_finds_the_batch_full_though_its_mean_is_not():
    load = load_of(running=[15.0], running_highest=[24.0], waiting=[3.0], waiting_highest=[12.0])
    found, waited = crowds.found_by_waiting(load, np.ones(1))
    assert found.tolist() == [24.0]
    assert waited.tolist() == [3.0]


def test_a_queue_that_stands_beside_free_places_found_the_mean():
    load = load_of(running=[15.0], running_highest=[24.0], waiting=[11.0], waiting_highest=[12.0])
    found, _ = crowds.found_by_waiting(load, np.ones(1))
    assert found.tolist() == [15.0]


def test_without_the_highest_queue_the_mean_has_to_be_at_the_level_itself():
    load = load_of(running=[23.0, 15.0], running_highest=[24.0, 24.0], waiting=[3.0, 3.0])
    found, _ = crowds.found_by_waiting(load, np.ones(2))
    assert found.tolist() == [24.0, 15.0]


def test_moments_without_a_queue_or_without_a_measurement_tell_nothing():
    load = load_of(running=[23.0, np.nan, 3.0], running_highest=[24.0] * 3, waiting=[0.0, 5.0, np.nan])
    found, waited = crowds.found_by_waiting(load, np.ones(3))
    assert np.isnan(found).all()
    assert not waited.any()
    (told,) = crowds.joined(found, waited, [slice(0, 3)])
    assert isinstance(told, Unknown)
    assert crowds.joined(MISSING, waited, [slice(0, 3)]) == [MISSING]


def test_a_limit_is_where_replicas_pile_up_and_not_the_most_that_ran_once():
    piled = load_of(running_highest=[24.0] * 8 + [20.0], waiting=[5.0] * 9, kv_usage_highest=[0.4] * 9)
    assert crowds.ceiling(piled, missing=MISSING) == 24.0
    once = load_of(running_highest=[24.0] * 6 + [21.0, 22.0, 23.0] * 5, waiting=[5.0] * 21, kv_usage_highest=[0.4] * 21)
    assert crowds.ceiling(once, missing=MISSING) is MISSING


def test_a_level_on_full_blocks_is_no_batch_limit_and_reserved_blocks_count_where_no_other_are_told():
    full = {"running_highest": [24.0] * 9, "waiting": [5.0] * 9}
    assert crowds.ceiling(load_of(**full, kv_usage_highest=[0.95] * 9), missing=MISSING) is MISSING
    assert crowds.ceiling(load_of(**full, kv_reserved=[0.95] * 9), missing=MISSING) is MISSING
    assert crowds.ceiling(load_of(**full, kv_reserved=[0.5] * 9), missing=MISSING) == 24.0
    assert crowds.ceiling(load_of(**full), missing=MISSING) is MISSING


# ---- the player's models


def truths(seed, *, days):
    """Hold each model's verdicts of a played fleet against its label; return those that are wrong."""
    whole = plan("full", seed=seed)
    limited = tuple(one for one in whole.models if one.label in TOLD)
    fleet = build(replace(whole, models=limited, days=days), end=END, seed=seed)
    wrong = {}
    for one in fleet.models:
        judged = verdicts_of(fleet, one)
        if foremost(judged) is not TOLD[one.plan.label]:
            wrong[one.key, one.plan.label] = shares(judged)
    return wrong


@pytest.mark.parametrize("seed", [2, 3])
def test_limits_of_played_models_are_found(seed):
    assert truths(seed, days=7.0) == {}


@pytest.mark.soak
def test_limits_of_played_models_are_found_with_many_seeds(figures):
    wrong = {seed: found for seed in range(1, 21) if (found := truths(seed, days=14.0))}
    figures.add(
        "The day-0 report",
        "played models of 200 whose limit was told wrongly",
        float(sum(map(len, wrong.values()))),
        "",
    )
    assert wrong == {}
