"""What if there were fewer: the window's peaks against what would be left."""

import pytest

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.replica_capacity import Basis, ReplicaCapacity
from optiinfra.domain.shrink import what_if
from optiinfra.domain.units import Ratio, Seconds
from tests.unit.domain.scaling_service import UNMEASURED, signals

UNFITTED = Pace()
LIMIT = EngineSettings(batch_limit=64.0)
MEASURED = ReplicaCapacity(4000.0, Basis.MEASURED, 4000.0, Ratio(0.95))
PACE = Pace(base=0.01, slope=1e-3, slope_lower=0.9e-3, slope_upper=1e-3, samples=20, batch_lowest=4, batch_highest=40)


def asked(*, current=8, ready=8, pace=UNFITTED, capacity=MEASURED, objectives=Objectives(), settings=LIMIT, **values):
    known = {"kv_cache_usage_max": 0.1, "running_max": 10.0} | values
    return what_if(
        signals(replicas=8, **known),
        settings,
        current=current,
        ready=ready,
        objectives=objectives,
        pace=pace,
        capacity=capacity,
    )


@pytest.mark.parametrize(
    ("values", "lowest", "binding"),
    [
        ({"running_max": 230.4}, 4, "batch slots"),
        ({"running_max": 200.0, "waiting_max": 88.0}, 5, "batch slots"),
        ({"kv_cache_usage_max": 0.45}, 4, "the KV cache"),
        ({"kv_cache_usage_max": 0.95, "kv_cache_evictable": 0.5}, 4, "the KV cache"),
        # A step of 10 ms and 1 ms a request; 80 ms are allowed of 100: 70 a replica.
        ({"running_max": 280.0, "pace": PACE, "settings": EngineSettings(batch_limit=512.0)}, 4, "inter-token latency"),
        # Without step times latency is taken to grow with the batch: 8 replicas x 40 ms / 80 ms.
        ({"inter_token_latency_p95": 0.04}, 4, "inter-token latency"),
        # A p95 that is twice the mean halves what the mean step may take: (40 - 10) / 1 requests a replica.
        (
            {
                "running_max": 120.0,
                "pace": PACE,
                "settings": EngineSettings(batch_limit=512.0),
                "inter_token_latency_p95": 0.05,
                "inter_token_latency_mean": 0.025,
            },
            4,
            "inter-token latency",
        ),
        ({"time_to_first_token_p95": 1.0}, 5, "time to first token"),
        ({}, 1, "the KV cache"),
    ],
)
def test_the_peaks_of_the_window_must_fit(values, lowest, binding):
    found = asked(**values)
    assert found.lowest == lowest
    assert binding in found.binding or lowest == 1
    assert not found.blocked


@pytest.mark.parametrize(
    ("basis", "lowest"), [(Basis.OCCUPANCY, 7), (Basis.STEP_TIMES, 4), (Basis.NONE, 7), (Basis.MEASURED, 1)]
)
def test_what_was_never_proven_goes_in_small_steps(basis, lowest):
    known = ReplicaCapacity(4000.0, basis, 1000.0, Ratio(0.6))
    assert asked(capacity=known).lowest == lowest


def test_a_replica_that_does_next_to_nothing_has_nothing_to_prove():
    known = ReplicaCapacity(4000.0, Basis.OCCUPANCY, 4000.0, Ratio(0.6))
    assert asked(capacity=known, work_rate=100.0).lowest <= 1
    assert asked(capacity=known, work_rate=8000.0).lowest == 7


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"replicas_reporting": 7}, "7 of 8 replicas report"),
        ({"ready": 7}, "7 of 8 replicas are ready"),
        ({"running": UNMEASURED}, "not known"),
        ({"waiting": 9.0}, "9 requests wait"),
        ({"queue_time_p95": 11.0}, "queue time"),
        ({"settings": EngineSettings(), "kv_cache_usage_max": UNMEASURED}, "neither batch limit nor KV cache"),
    ],
)
def test_what_blocks(values, word):
    assert any(word in reason for reason in asked(**values).blocked)


def test_no_objective_bounds_nothing():
    free = Objectives(inter_token_latency_p95=Seconds(float("inf")))
    assert asked(objectives=free, inter_token_latency_p95=9.0).lowest <= 1
