"""Prices and savings: no price is not a price of zero."""

import pytest

from optiinfra.domain.cost import (
    OPENCOST_CPU_CORE_HOUR,
    OPENCOST_MEMORY_GIB_HOUR,
    PriceList,
    saving,
    workload_cost_per_hour,
)
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.domain.made_up import GIB, UNKNOWN

PRICES = PriceList(gpu_hour_by_model={"H100": 4.0, "NVIDIA H100 NVL": 3.0, "L4": 0.7}, gpu_hour=1.0)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("NVIDIA H100 80GB HBM3", 4.0),
        ("NVIDIA-H100-80GB-HBM3", 4.0),
        ("NVIDIA H100 NVL", 3.0),
        ("NVIDIA-H100-NVL", 3.0),
        ("NVIDIA L4", 0.7),
        ("NVIDIA A100-SXM4-80GB", 1.0),
        ("", 1.0),
    ],
)
def test_a_gpus_price_by_its_most_exact_name(model, price):
    assert PRICES.gpu_hour_of(model) == price


def test_a_gpu_without_a_price_is_unknown():
    price = PriceList().gpu_hour_of("NVIDIA H100")
    assert isinstance(price, Unknown)
    assert price.reason is UnknownReason.NOT_CONFIGURED
    cost = workload_cost_per_hour(PriceList(), gpus=1.0, gpu_model="H100", cpu_cores=4.0, memory_bytes=GIB)
    assert isinstance(cost, Unknown)


def test_the_cost_of_a_workload():
    cost = workload_cost_per_hour(PRICES, gpus=2.0, gpu_model="NVIDIA H100", cpu_cores=8.0, memory_bytes=64 * GIB)
    assert cost == pytest.approx(2 * 4.0 + 8 * OPENCOST_CPU_CORE_HOUR + 64 * OPENCOST_MEMORY_GIB_HOUR)
    without = workload_cost_per_hour(PriceList(), gpus=0.0, gpu_model="", cpu_cores=1.0, memory_bytes=0.0)
    assert without == OPENCOST_CPU_CORE_HOUR
    for size in ({"cpu_cores": UNKNOWN, "memory_bytes": 0.0}, {"cpu_cores": 1.0, "memory_bytes": UNKNOWN}):
        assert isinstance(workload_cost_per_hour(PRICES, gpus=0.0, gpu_model="", **size), Unknown)


def test_a_month_has_730_hours():
    found = saving(PRICES, gpus=2.0, gpu_model="NVIDIA H100 80GB HBM3")
    assert found.per_month == pytest.approx(2 * 4.0 * 730)
    assert found.gpus_freed == 2.0
    assert saving(PRICES, gpus=2.0, gpu_model="H100", share_of_time=0.5).per_month == pytest.approx(4.0 * 730)


def test_without_a_price_capacity_is_freed_and_no_money_is_named():
    found = saving(PriceList(), gpus=1.0, gpu_model="H100", cpu_cores=4.0)
    assert (found.gpus_freed, found.cpu_cores_freed, found.per_month) == (1.0, 4.0, None)
    assert saving(PriceList(), cpu_cores=1.0).per_month == pytest.approx(OPENCOST_CPU_CORE_HOUR * 730)


def test_adding_capacity_costs():
    assert saving(PRICES, gpus=-1.0, gpu_model="L4").per_month == pytest.approx(-0.7 * 730)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_impossible_prices_are_refused(price):
    with pytest.raises(ValueError, match="price"):
        PriceList(gpu_hour=price)
    with pytest.raises(ValueError, match="price"):
        PriceList(gpu_hour_by_model={"L4": price})


def test_an_impossible_share_of_time_is_refused():
    with pytest.raises(ValueError, match="share_of_time"):
        saving(PRICES, gpus=1.0, share_of_time=1.5)
