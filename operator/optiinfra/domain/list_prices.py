"""On-demand list prices of common GPU instances, by cloud and region, each block with its source and its date.

List prices are what nobody with a contract pays, and they change: they are used last, always shown with their date, and
meant to be replaced (docs/how-to/prices.md). An instance or a region that is not here has no price; a price is never
carried over from another region, size or generation.

Sources, all of them public price lists as collected by open-source projects:

- AWS us-east-1, Linux, shared tenancy: AWS' price list API, as karpenter-provider-aws generated it on 2026-01-19.
- Google Cloud us-central1 and us-east1, machine with its GPUs: the Cloud Billing catalogue, as karpenter-provider-gcp
  ships it in 2026 (the file has no day).
- Azure, pay as you go, Linux: the Retail Prices API, as SkyPilot's catalogue v6 has it (2025 at the latest).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import median
from types import MappingProxyType
from typing import Final

from optiinfra.domain.gpu_models import recognise
from optiinfra.domain.readings import Unknown

CURRENCY: Final = "USD"
"""Of every price in the table."""
OPENCOST_GPU_HOUR: Final = 0.95
"""OpenCost's default price of any GPU. Here it is only a weight, where a node's price is split: it is off by a factor
of ten for the GPUs that serve language models, so it never becomes an amount of money."""
OPENCOST_CPU_CORE_HOUR: Final = 0.031611
"""OpenCost's default price of a core for an hour, on demand, in USD."""
OPENCOST_MEMORY_GIB_HOUR: Final = 0.004237
"""OpenCost's default price of a GiB for an hour, on demand, in USD."""
OPENCOST_SPOT_CPU_CORE_HOUR: Final = 0.006655
OPENCOST_SPOT_MEMORY_GIB_HOUR: Final = 0.000892
OPENCOST_AS_OF: Final = "2026"
"""Year in which OpenCost's configs/default.json was looked at; its numbers have been the same for years."""


@dataclass(frozen=True, slots=True)
class ListPrice:
    """What one instance costs an hour on demand."""

    cloud: str
    region: str
    instance_type: str
    gpus: int
    cpu_cores: float
    memory_gib: float
    hour: float
    """USD."""
    as_of: str
    """YYYY, YYYY-MM or YYYY-MM-DD."""


_BLOCKS: Final = (
    # cloud, regions, as of; instance type, GPUs, vCPUs, GiB, price in each of the regions ("-": not sold there)
    (
        "aws",
        ("us-east-1",),
        "2026-01-19",
        """
        g4dn.xlarge 1 4 16 0.526
        g4dn.2xlarge 1 8 32 0.752
        g4dn.4xlarge 1 16 64 1.204
        g4dn.8xlarge 1 32 128 2.176
        g4dn.12xlarge 4 48 192 3.912
        g4dn.16xlarge 1 64 256 4.352
        g4dn.metal 8 96 384 7.824
        g5.xlarge 1 4 16 1.006
        g5.2xlarge 1 8 32 1.212
        g5.4xlarge 1 16 64 1.624
        g5.8xlarge 1 32 128 2.448
        g5.12xlarge 4 48 192 5.672
        g5.16xlarge 1 64 256 4.096
        g5.24xlarge 4 96 384 8.144
        g5.48xlarge 8 192 768 16.288
        g6.xlarge 1 4 16 0.8048
        g6.2xlarge 1 8 32 0.9776
        g6.4xlarge 1 16 64 1.3232
        g6.8xlarge 1 32 128 2.0144
        g6.12xlarge 4 48 192 4.6016
        g6.16xlarge 1 64 256 3.3968
        g6.24xlarge 4 96 384 6.6752
        g6.48xlarge 8 192 768 13.3504
        g6e.xlarge 1 4 32 1.861
        g6e.2xlarge 1 8 64 2.24208
        g6e.4xlarge 1 16 128 3.00424
        g6e.8xlarge 1 32 256 4.52856
        g6e.12xlarge 4 48 384 10.49264
        g6e.16xlarge 1 64 512 7.57719
        g6e.24xlarge 4 96 768 15.06559
        g6e.48xlarge 8 192 1536 30.13118
        p3.2xlarge 1 8 61 3.06
        p3.8xlarge 4 32 244 12.24
        p3.16xlarge 8 64 488 24.48
        p3dn.24xlarge 8 96 768 31.212
        p4d.24xlarge 8 96 1152 21.957642
        p4de.24xlarge 8 96 1152 27.44705
        p5.4xlarge 1 16 256 6.88
        p5.48xlarge 8 192 2048 55.04
        p5en.48xlarge 8 192 2048 63.296
        p6-b200.48xlarge 8 192 2048 113.9328
        """,
    ),
    (
        "gcp",
        ("us-central1", "us-east1"),
        "2026",
        """
        a2-highgpu-1g 1 12 85 3.673385 3.673385
        a2-highgpu-2g 2 24 170 7.34677 7.34677
        a2-highgpu-4g 4 48 340 14.69354 14.69354
        a2-highgpu-8g 8 96 680 29.38708 29.38708
        a2-megagpu-16g 16 96 1360 55.739504 -
        a2-ultragpu-1g 1 12 170 5.068798 -
        a2-ultragpu-2g 2 24 340 10.137596 -
        a2-ultragpu-4g 4 48 680 20.275192 -
        a2-ultragpu-8g 8 96 1360 40.550383 -
        a3-highgpu-1g 1 26 234 11.06125 -
        a3-highgpu-2g 2 52 468 22.1225 -
        a3-highgpu-4g 4 104 936 44.245 -
        a3-highgpu-8g 8 208 1872 88.49 -
        g2-standard-4 1 4 16 0.706832 -
        g2-standard-8 1 8 32 0.853624 -
        g2-standard-12 1 12 48 1.000416 -
        g2-standard-16 1 16 64 1.147208 -
        g2-standard-24 2 24 96 2.000833 -
        g2-standard-32 1 32 128 1.734376 -
        g2-standard-48 4 48 192 4.001665 -
        g2-standard-96 8 96 384 8.00333 -
        """,
    ),
    (
        "azure",
        ("eastus", "eastus2", "centralus", "southcentralus", "westus", "westus2", "westus3"),
        "2025",
        """
        Standard_NC4as_T4_v3 1 4 28 0.526 0.526 0.594 0.631 0.631 0.526 0.526
        Standard_NC8as_T4_v3 1 8 56 0.752 0.752 0.849 0.902 0.902 0.752 0.752
        Standard_NC16as_T4_v3 1 16 110 1.204 1.204 1.36 1.445 1.445 1.204 1.204
        Standard_NC64as_T4_v3 4 64 440 4.352 4.352 4.907 5.222 5.222 4.352 4.352
        Standard_NC24ads_A100_v4 1 24 220 3.673 3.673 4.15 4.408 4.775 3.673 3.673
        Standard_NC48ads_A100_v4 2 48 440 7.346 7.346 8.301 8.815 9.55 7.346 7.346
        Standard_NC96ads_A100_v4 4 96 880 14.692 14.692 16.602 17.63 19.1 14.692 14.692
        Standard_NC40ads_H100_v5 1 40 320 6.98 6.98 - 8.38 - - 6.98
        Standard_NC80adis_H100_v5 2 80 640 13.96 13.96 - 16.76 - - 13.96
        Standard_ND96asr_v4 8 96 900 27.197 - - 32.63 - 27.197 -
        Standard_ND96amsr_A100_v4 8 96 1800 32.77 32.77 - 39.324 - - -
        Standard_ND96isr_H100_v5 8 96 1900 98.32 98.32 - - 127.816 - -
        Standard_NV36ads_A10_v5 1 36 440 3.2 3.2 - 3.84 4.16 3.2 3.2
        Standard_NV72ads_A10_v5 2 72 880 6.52 6.52 - 7.824 8.476 6.52 6.52
        """,
    ),
)


def _rows() -> tuple[ListPrice, ...]:
    rows: list[ListPrice] = []
    for cloud, regions, as_of, block in _BLOCKS:
        for line in block.strip().splitlines():
            name, gpus, cores, memory, *prices = line.split()
            rows += [
                ListPrice(cloud, region, name, int(gpus), float(cores), float(memory), float(price), as_of)
                for region, price in zip(regions, prices, strict=True)
                if price != "-"
            ]
    return tuple(rows)


LIST_PRICES: Final = _rows()
"""One row an instance type and region."""
_BY_PLACE: Final[Mapping[tuple[str, str], ListPrice]] = MappingProxyType(
    {(row.instance_type.lower(), row.region): row for row in LIST_PRICES}
)
_TYPES: Final = frozenset(row.instance_type.lower() for row in LIST_PRICES)


def list_price(instance_type: str, region: str) -> ListPrice | None:
    """Return the row of an instance type in its own region; None where there is none."""
    return _BY_PLACE.get((instance_type.lower(), region.lower()))


def is_listed(instance_type: str) -> bool:
    """Tell whether the table has the instance type in any region."""
    return instance_type.lower() in _TYPES


@cache
def _gpu_weights() -> Mapping[str, float]:
    """Return the median over the table of what is left for one GPU beside CPU and memory, by recognised model."""
    found: dict[str, list[float]] = {}
    for row in LIST_PRICES:
        model = recognise(row.instance_type)
        if isinstance(model, Unknown):
            continue
        rest = row.hour - row.cpu_cores * OPENCOST_CPU_CORE_HOUR - row.memory_gib * OPENCOST_MEMORY_GIB_HOUR
        if rest > 0.0:
            found.setdefault(model.name, []).append(rest / row.gpus)
    return MappingProxyType({name: median(values) for name, values in found.items()})


@lru_cache(maxsize=1_024)
def gpu_weight(model: str) -> float:
    """Return what one GPU weighs beside a core and a GiB, where a node's price is split: a share, never a price.

    OpenCost gives every GPU the same weight, 0.95, which leaves a third of an H100 node's price for its GPUs. Here it
    is the median over the table of an instance's list price less its CPU and memory at OpenCost's defaults, and
    OpenCost's weight only for models that the table does not have.
    """
    known = recognise(model)
    return OPENCOST_GPU_HOUR if isinstance(known, Unknown) else _gpu_weights().get(known.name, OPENCOST_GPU_HOUR)
