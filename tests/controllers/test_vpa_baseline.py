"""The VPA baseline beside the published recommender, which runs for real over doubles of its sources of usage.

One run of about a minute for all tests. No clock is bent: both sources tell the time of a sample with the sample, and
the VPA objects are read while the recommender waits for its next one, so nothing depends on the machine's speed.
"""

import math

import numpy as np
import pytest

from bench.vpa import ALLOWED, DAYS, OWN_TRACE, largest
from bench.vpa_runs import KILL_AT, KILLED, MEBIBYTE, STEP, run
from hack.binaries import ensure
from optiinfra.cli.replay_rightsizing_source import read_usage
from optiinfra.domain.histogram import DAY
from optiinfra.domain.replay import vpa
from optiinfra.domain.replay.usage import Usage

LIVE_DAYS = 1.0
EVERY = 12
SAMPLES = round(LIVE_DAYS * DAY / STEP)
ONE_BUCKET = 0.07
"""A bucket is 5 % wider than the one before; so are the ends of the smallest, and a little more."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def traces():
    return read_usage(OWN_TRACE).usages[:3]


@pytest.fixture(scope="module")
def played(traces):
    ensure(
        ["etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kwok", "vpa-recommender"]
    )
    return run(traces, days=DAYS, live_days=LIVE_DAYS, every=EVERY, say=print)


@pytest.fixture(scope="module")
def done(played):
    return {(one.workload, one.container): one for one in played[0]}


CONTAINERS = [
    *((f"trace-{number}", "container-1") for number in (1, 2, 3)),
    ("with-sidecar", "container-1"),
    ("with-sidecar", "container-2"),
    ("with-gaps", "container-1"),
    ("growing", "container-1"),
    ("all-sizes", "container-1"),
    (KILLED, "container-1"),
]


@pytest.mark.parametrize("name", CONTAINERS, ids="/".join)
def test_the_real_recommender_says_what_the_baseline_says_at_every_look(done, name):
    one = done[name]
    assert one.exact.shape == (len(range(0, SAMPLES, EVERY)) + 1, 6)
    assert largest(one.exact) <= ALLOWED
    assert largest(one.cut) <= ONE_BUCKET


def test_every_container_is_compared(done):
    assert set(done) == set(CONTAINERS)


def test_it_was_told_the_whole_trace_once(played):
    _, run_of = played
    assert run_of.samples == SAMPLES
    assert [query.partition("(")[0].partition("{")[0] for query in run_of.queries] == [
        "rate",
        "container_memory_working_set_bytes",
        "kube_pod_labels[10d]",
    ]


def test_the_bounds_have_narrowed_with_ten_days_of_samples(done):
    # 2,880 samples at one in five minutes count as two days: the upper bound is 1.5 times the percentile.
    target, _, upper = done["trace-3", "container-1"].real.cpu_cores
    assert 1.45 < upper / target < 1.65


def test_a_memory_kill_raises_the_recommendation_by_what_the_baseline_says(played, done, traces):
    one, same = done[KILLED, "container-1"], done["trace-1", "container-1"]
    request = math.ceil(traces[0].memory_bytes.max() / MEBIBYTE) * MEBIBYTE
    assert one.real.memory_bytes[0] == pytest.approx(1.15 * vpa.out_of_memory_sample(request), rel=0.05)
    assert one.real.memory_bytes[0] > 1.1 * same.real.memory_bytes[0]
    before = [look.recommended[KILLED, "container-1"] for look in played[1].looks if look.number <= KILL_AT]
    plain = [look.recommended["trace-1", "container-1"] for look in played[1].looks if look.number <= KILL_AT]
    assert [each.memory_bytes for each in before] == [each.memory_bytes for each in plain]


def test_the_least_amounts_of_a_pod_are_shared_by_its_containers(done):
    sidecar = done["with-sidecar", "container-2"].real
    assert sidecar.cpu_cores[0] == 0.012
    assert sidecar.memory_bytes[0] == 125.0 * MEBIBYTE


def test_the_daily_decision_of_the_replay_is_what_a_cluster_would_have_had(done, traces):
    # As `optiinfra replay rightsizing` asks the baseline: at midnight, from the trace itself. The recommender was told
    # the trace by a grid of its own, up to five minutes later, and the last samples rounded up.
    for number, usage in enumerate(traces, 1):
        midnight = np.array([usage.time[-1] + STEP])
        found = vpa.recommend(Usage(usage.time, usage.cpu_cores, usage.memory_bytes), at=midnight).requests
        real = done[f"trace-{number}", "container-1"].real
        assert found.cpu(0) == pytest.approx(real.cpu_cores[0], rel=ONE_BUCKET)
        assert found.memory(0) == pytest.approx(real.memory_bytes[0], rel=ONE_BUCKET)
