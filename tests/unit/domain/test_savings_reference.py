"""The plain HPA that lives the same load as a workload: what it would run, and when nobody can say."""

import math

import pytest

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.savings.reference import LEAST_TICKS, plain_hpa_replicas
from optiinfra.domain.scaling import ScalerMemory
from tests.unit.domain.scaling_service import LOOK, SERVICE, SLOTS, STEP, born

HOURS = 1.25
STEPS = int(HOURS * 3600 / STEP)
BUSY = 6.0
"""Replicas that the load keeps busy."""
RATE = BUSY * SLOTS / SERVICE


def test_before_the_first_tick_and_in_the_first_hour_nobody_can_say():
    unheard = plain_hpa_replicas(ScalerMemory())
    assert isinstance(unheard, Unknown)
    young = plain_hpa_replicas(born([RATE] * 100, ready=10).run([RATE] * 100).memory)
    assert isinstance(young, Unknown)
    assert young.reason is UnknownReason.TOO_FEW_SAMPLES
    assert str(LEAST_TICKS) in young.detail


def test_under_a_steady_load_it_runs_what_its_target_says():
    life = born([RATE], ready=10).run([RATE] * STEPS)
    found = plain_hpa_replicas(life.memory)
    # Within its tolerance of ten per cent it stays where it is.
    assert BUSY / 0.7 / 1.1 <= found <= math.ceil(BUSY / 0.7 * 1.1) + 1


def test_it_follows_the_load_up_and_down_in_its_own_time():
    life = born([RATE], ready=10).run([RATE] * STEPS)
    before = plain_hpa_replicas(life.memory)
    up = plain_hpa_replicas(life.run([2 * RATE] * STEPS).memory)
    down = plain_hpa_replicas(life.run([RATE / 2] * STEPS).memory)
    assert up == pytest.approx(2 * before, rel=0.15)
    assert down < before


def test_while_the_load_is_unknown_there_is_no_comparison():
    life = born([RATE], ready=10).run([RATE] * STEPS)
    life.run([RATE] * int(LOOK / STEP), blind=lambda _: True)
    found = plain_hpa_replicas(life.memory)
    assert isinstance(found, Unknown)
    assert found.reason is UnknownReason.STALE
