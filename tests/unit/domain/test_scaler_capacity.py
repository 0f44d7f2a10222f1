"""What one replica serves is learned while work waits, and is unknown before."""

import numpy as np
import pytest

from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaler.capacity import Capacities
from optiinfra.domain.scaler.observation import Observation


def tick(served, *, ready=4.0, backlog=0.0):
    return Observation(
        arrived=np.array([served]), backlog=np.array([backlog]), ready=np.array([ready]), served=np.array([served])
    )


def test_without_a_queue_only_a_lower_bound_is_known():
    learned = Capacities.empty(1)
    for _ in range(100):
        learned.observe(tick(2000.0))
    told = learned.of(0)
    assert isinstance(told, Unknown)
    assert "at least 500" in told.detail


def test_while_work_waits_the_capacity_is_what_is_served():
    learned = Capacities.empty(1)
    for _ in range(20):
        learned.observe(tick(4000.0, backlog=1e6))
    assert learned.of(0) == pytest.approx(1000.0)


def test_it_follows_the_shape_of_the_requests():
    learned = Capacities.empty(1)
    for rate in (4000.0, 2000.0):
        for _ in range(12_000):
            learned.observe(tick(rate, backlog=1e6))
    assert learned.of(0) == pytest.approx(600.0, rel=0.2)


@pytest.mark.parametrize("missing", ["served", "ready", "backlog"])
def test_what_was_not_measured_teaches_nothing(missing):
    learned = Capacities.empty(1)
    values = {"served": 4000.0, "ready": 4.0, "backlog": 1e6, missing: np.nan}
    for _ in range(50):
        learned.observe(tick(values["served"], ready=values["ready"], backlog=values["backlog"]))
    assert isinstance(learned.of(0), Unknown)
