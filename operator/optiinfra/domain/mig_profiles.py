"""What a GPU can be cut into: the MIG profiles of each model, with their share of multiprocessors and of memory.

Source: NVIDIA's Multi-Instance GPU User Guide, "Supported MIG Profiles" (tables of A30, A100, H100 80 GB, 94 GB and
96 GB, H200, B200, RTX PRO 6000), without the variants that only differ in media engines. What a profile really has is
less than its fractions: of an H100's 132 multiprocessors `1g` has 16 and `4g` 64, of an A100's 108 `1g` has 14, and an
H200's `1g.18gb` has 16.0 GiB. `MULTIPROCESSORS` and `MEMORY` lie at or below what `nvidia-smi mig -lgip` prints for
A100, H100 and H200. A model that is not listed is unknown: some have no MIG, of others the guide prints no table.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.readings import Unknown, UnknownReason

MULTIPROCESSORS: Final = 0.84
"""Of the fraction in the guide's table, what a profile surely has: 16 of 132 are 0.85 of a seventh."""
MEMORY: Final = 0.95
"""Of the gigabytes (1e9) in a profile's name: 18 GB are 16.0 GiB, and 0.95 of them are 15.9."""


@dataclass(frozen=True, slots=True)
class MigProfile:
    """One way to cut a GPU."""

    name: str
    """As the resource is called: nvidia.com/mig-1g.10gb."""
    compute: float
    """Fraction of the multiprocessors, by the guide."""
    memory: float
    """Fraction of memory and of its bandwidth."""
    gigabytes: float
    instances: int
    """How many fit one GPU."""

    @property
    def activity(self) -> float:
        """Share of the whole GPU's multiprocessors that it surely has."""
        return self.compute * MULTIPROCESSORS

    @property
    def usable_bytes(self) -> float:
        """Memory that it surely has."""
        return self.gigabytes * 1e9 * MEMORY

    @property
    def resource(self) -> str:
        """Name of the extended resource, with the device plugin's strategy "mixed"."""
        return f"nvidia.com/mig-{self.name}"


def _sevenths(*sizes: int) -> tuple[MigProfile, ...]:
    """Build the six profiles of a GPU of seven compute and eight memory slices, from the gigabytes in their names."""
    eighth, quarter, half, whole = sizes
    return (
        MigProfile(f"1g.{eighth}gb", 1 / 7, 1 / 8, eighth, 7),
        MigProfile(f"1g.{quarter}gb", 1 / 7, 2 / 8, quarter, 4),
        MigProfile(f"2g.{quarter}gb", 2 / 7, 2 / 8, quarter, 3),
        MigProfile(f"3g.{half}gb", 3 / 7, 4 / 8, half, 2),
        MigProfile(f"4g.{half}gb", 4 / 7, 4 / 8, half, 1),
        MigProfile(f"7g.{whole}gb", 1.0, 1.0, whole, 1),
    )


def _quarters(*sizes: int) -> tuple[MigProfile, ...]:
    quarter, half, whole = sizes
    return (
        MigProfile(f"1g.{quarter}gb", 1 / 4, 1 / 4, quarter, 4),
        MigProfile(f"2g.{half}gb", 2 / 4, 2 / 4, half, 2),
        MigProfile(f"4g.{whole}gb", 1.0, 1.0, whole, 1),
    )


_A100_80: Final = _sevenths(10, 20, 40, 80)
_H100_94: Final = _sevenths(12, 24, 47, 94)
_H200: Final = _sevenths(18, 35, 71, 141)
PROFILES: Final = {
    "A30": _quarters(6, 12, 24),
    "A100-40GB": _sevenths(5, 10, 20, 40),
    "A100-80GB-PCIe": _A100_80,
    "A100-80GB-SXM": _A100_80,
    "H100-PCIe": _A100_80,
    "H100-SXM": _A100_80,
    "H100-NVL": _H100_94,
    "GH200-96GB": _sevenths(12, 24, 48, 96),
    "H200-SXM": _H200,
    "H200-NVL": _H200,
    "B200": _sevenths(23, 45, 90, 180),
    "RTX-PRO-6000-Server": _quarters(24, 48, 96),
    "RTX-PRO-6000-Workstation": _quarters(24, 48, 96),
}
"""By the names of `gpu_models`, smallest first."""
_PRINTED_NOWHERE: Final = frozenset({"H20", "GH200-144GB", "GB200", "B300", "GB300"})


def profiles_of(gpu: GpuModel) -> tuple[MigProfile, ...] | Unknown:
    """Return the profiles of a GPU; empty for one that cannot be cut."""
    if gpu.name in _PRINTED_NOWHERE:
        return Unknown(UnknownReason.NOT_CONFIGURED, f"the table of MIG profiles does not list the {gpu.name}")
    return PROFILES.get(gpu.name, ())
