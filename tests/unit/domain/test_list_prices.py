"""The shipped list prices: a table that parses, dated, without rows that cannot be."""

import re

import pytest

from optiinfra.domain.list_prices import LIST_PRICES, OPENCOST_GPU_HOUR, gpu_weight, is_listed, list_price


def test_every_row_can_be():
    assert len(LIST_PRICES) > 100
    for row in LIST_PRICES:
        assert 0.1 < row.hour < 200.0, row
        assert row.gpus in {1, 2, 4, 8, 16}, row
        assert 4 <= row.cpu_cores <= 256, row
        assert 2.0 <= row.memory_gib / row.cpu_cores <= 32.0, row
        assert re.fullmatch(r"20\d\d(-\d\d(-\d\d)?)?", row.as_of), row
        assert row.cloud in {"aws", "gcp", "azure"}


def test_a_place_has_one_price():
    assert len({(row.instance_type.lower(), row.region) for row in LIST_PRICES}) == len(LIST_PRICES)


def test_a_machine_with_more_of_the_same_gpus_and_of_everything_else_costs_more():
    for one in LIST_PRICES:
        for other in LIST_PRICES:
            same = (one.region, _family(one.instance_type)) == (other.region, _family(other.instance_type))
            more = other.gpus >= one.gpus and other.cpu_cores > one.cpu_cores and other.memory_gib > one.memory_gib
            assert not (same and more) or other.hour > one.hour, (one, other)


def _family(instance_type: str) -> str:
    """Group g5.xlarge with g5.48xlarge, a2-highgpu-1g with -8g, NC24ads_A100_v4 with NC96ads_A100_v4."""
    return re.sub(r"\d+(?=ad?s|g$|adi)", "#", instance_type.partition(".")[0].removesuffix("-8g"))


MODELS = [
    "Tesla-T4",
    "NVIDIA-A10G",
    "NVIDIA-L4",
    "NVIDIA-L40S",
    "NVIDIA-A100-SXM4-40GB",
    "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-H100-80GB-HBM3",
    "NVIDIA-H200",
    "NVIDIA-B200",
]


@pytest.mark.parametrize("model", MODELS)
def test_the_gpus_that_serve_models_have_a_weight_of_their_own(model):
    assert gpu_weight(model) != OPENCOST_GPU_HOUR


@pytest.mark.parametrize(
    ("instance", "region", "hour"),
    [
        ("p5.48xlarge", "us-east-1", 55.04),
        ("P5.48XLARGE", "us-east-1", 55.04),
        ("a2-highgpu-8g", "us-east1", 29.38708),
        ("standard_nd96isr_h100_v5", "eastus", 98.32),
    ],
)
def test_a_price_is_found_by_instance_and_region(instance, region, hour):
    row = list_price(instance, region)
    assert row is not None
    assert row.hour == hour


def test_no_price_is_carried_to_another_region_or_size():
    assert list_price("p5.48xlarge", "eu-west-1") is None
    assert is_listed("p5.48xlarge")
    assert list_price("p5.24xlarge", "us-east-1") is None
    assert not is_listed("p5.24xlarge")


def test_weights_put_a_gpu_where_its_price_is():
    l4, a100, h100 = gpu_weight("NVIDIA L4"), gpu_weight("NVIDIA A100-SXM4-80GB"), gpu_weight("NVIDIA H100 80GB HBM3")
    assert 0.3 < l4 < a100 < h100 < 15.0
    assert gpu_weight("Voodoo 2") == OPENCOST_GPU_HOUR
