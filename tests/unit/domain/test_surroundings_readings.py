"""From pages about GPUs and nodes to a service's surroundings: means, differences, restarts, and what nobody said."""

import pytest

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.surroundings_readings import (
    GpuQuantity,
    GpuReading,
    LinkReading,
    NodeQuantity,
    SurroundingsReading,
    surroundings_in,
)

G, N = GpuQuantity, NodeQuantity


def reading(time, *gpus, node=None, links=()):
    return SurroundingsReading(time, tuple(gpus), node or {}, tuple(links))


def gpu(uuid="a", **values):
    return GpuReading(uuid, {G(name): value for name, value in values.items()})


def join(*readings, gpus=None, **others):
    return surroundings_in({"n": readings, **others}, now=100.0, window=100.0, gpus=gpus)


def test_ratios_are_means_over_gpus_and_pages():
    found = join(
        reading(0.0, gpu("a", sm_active=0.2, utilization=1.0), gpu("b", sm_active=0.4)),
        reading(50.0, gpu("a", sm_active=0.6), gpu("b", sm_active=0.8)),
    )
    assert found.gpu_sm_active == pytest.approx(0.5)
    assert found.gpu_utilization == 1.0
    assert isinstance(found.gpu_tensor_active, Unknown)


def test_only_the_services_own_gpus_count():
    page = reading(50.0, gpu("a", sm_active=0.2), gpu("b", sm_active=0.9), gpu("a/3", sm_active=0.4))
    assert join(page, gpus=frozenset({"a"})).gpu_sm_active == pytest.approx(0.3)
    assert isinstance(join(page, gpus=frozenset({"c"})).gpu_sm_active, Unknown)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"memory_used": 30, "memory_free": 10}, 0.75),
        ({"memory_used": 30, "memory_total": 50, "memory_reserved": 10}, 0.75),
        ({"memory_used": 30, "memory_total": 40}, 0.75),
    ],
)
def test_memory_is_that_of_the_fullest_gpu_now(values, expected):
    found = join(reading(0.0, gpu("a", memory_used=99, memory_free=1)), reading(50.0, gpu("a", **values), gpu("b")))
    assert found.gpu_memory_usage == expected
    assert isinstance(join(reading(0.0, gpu("a", memory_used=99))).gpu_memory_usage, Unknown)


def test_clocks_held_down_by_bits():
    # Idle (1) and application clocks (2) hold nothing down; a power cap (4) and a thermal slowdown (64) do.
    pages = [reading(10.0 * at, gpu(clock_events=bits)) for at, bits in enumerate((0x1, 0x2, 0x4, 0x41))]
    assert join(*pages).gpu_clock_throttled == 0.5


def test_clocks_held_down_by_seconds_before_bits():
    pages = [
        reading(0.0, gpu(throttled_seconds=100.0, clock_events=0x4)),
        reading(50.0, gpu(throttled_seconds=110.0, clock_events=0x4)),
    ]
    assert join(*pages).gpu_clock_throttled == pytest.approx(0.2)


def test_cpu_by_differences_pooled_by_cores():
    small = [reading(at, node={N.CPU_BUSY_SECONDS: at * 1.0, N.CPU_CORES: 2.0}) for at in (0.0, 50.0)]
    large = [reading(at, node={N.CPU_BUSY_SECONDS: 900.0 + at * 3.0, N.CPU_CORES: 6.0}) for at in (0.0, 50.0)]
    assert join(*small, m=large).node_cpu == pytest.approx(0.5)


def test_a_counter_that_went_down_counts_from_zero():
    values = ((0.0, 500.0), (40.0, 520.0), (80.0, 20.0))
    pages = [reading(at, node={N.CPU_BUSY_SECONDS: busy, N.CPU_CORES: 1.0}) for at, busy in values]
    assert join(*pages).node_cpu == pytest.approx(0.5)


def test_the_sources_own_ratio_where_there_is_no_counter():
    pages = [
        reading(at, node={N.CPU_RATIO: ratio, N.CPU_WAITING_RATIO: ratio / 2}) for at, ratio in ((0, 0.2), (9, 0.4))
    ]
    assert join(*pages).node_cpu == pytest.approx(0.3)
    assert join(*pages).cpu_pressure == pytest.approx(0.15)


def test_pressure_is_that_of_the_node_that_has_most():
    calm = [reading(at, node={N.CPU_WAITING_SECONDS: 7.0}) for at in (0.0, 50.0)]
    pressed = [reading(at, node={N.CPU_WAITING_SECONDS: at * 0.4}) for at in (0.0, 50.0)]
    assert join(*calm, m=pressed).cpu_pressure == pytest.approx(0.4)


def link(name, received, sent, speed):
    return LinkReading(name, received, sent, speed)


def test_the_busiest_link_in_its_busier_direction():
    unknown = Unknown(UnknownReason.NOT_MEASURED)

    def page(at):
        ethernet, infiniband = link("eth0", at * 10, at * 40, 100.0), link("ib0", at * 70, 0, 1000.0)
        return reading(at, links=(ethernet, infiniband, link("veth", at * 9999, 0, unknown)))

    pages = [page(0.0), page(50.0)]
    assert join(*pages).network_busy == pytest.approx(0.4)
    assert isinstance(join(pages[0]).network_busy, Unknown)


def test_pages_outside_the_window_and_none_at_all():
    found = surroundings_in({"n": [reading(5.0, gpu(sm_active=0.5))]}, now=500.0, window=100.0)
    assert isinstance(found.gpu_sm_active, Unknown)
    assert "no page" in found.gpu_sm_active.detail
    # What such pages never tell is left for others to say.
    assert found.starting_replicas == Surroundings().starting_replicas
