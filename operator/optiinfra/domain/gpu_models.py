"""What GPUs can do: memory, bandwidth and arithmetic by type, for rooflines. One table, with its sources.

Sources: NVIDIA's datasheets of each product (H100, H200, L4, L40S ... "Tensor Core" figures; those with sparsity are
halved; HGX figures are divided by eight), the Blackwell architecture brief for B200 and GB200, AMD's Instinct product
pages (peak theoretical, without sparsity), Intel's Gaudi 2 and Gaudi 3 white papers. Memory is what the driver shows,
which is less than the name says. An MI250X is two devices to its driver, and a row describes one of them.

A GPU that is not in the table is unknown, and so is a name that two products share with different memory: a guessed
bandwidth would become a wrong promise.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value

MAX_NAME: Final = 128
_TERA: Final = 1e12
_NONE: Final = Unknown(UnknownReason.UNSUPPORTED, "the GPU has no such arithmetic")
_REMEDY: Final = "label the node nvidia.com/gpu.product (GPU feature discovery), or report the name so that it is added"


@dataclass(frozen=True, slots=True)
class GpuModel:
    """The datasheet of one GPU; dense figures, without sparsity."""

    name: str
    """Short name: "H100-SXM", "L40S" ..."""
    generation: str
    """Ampere, Ada, Hopper, Blackwell ..."""
    compute_capability: float
    """8.0, 8.9, 9.0 ...; 0 for GPUs of other makers."""
    memory_bytes: float
    bandwidth: float
    """Bytes per second."""
    flops_16: float
    """Dense operations per second in bfloat16 or float16."""
    flops_8: Value
    """In 8-bit floating point; unknown (UNSUPPORTED) where there is none."""
    ops_int8: Value
    flops_4: Value
    """In 4-bit floating point."""
    shared: bool = False
    """Time-sliced between pods: what one of them gets of it is not in any datasheet."""


def _gpu(
    name: str,
    generation: str,
    capability: float,
    gib: float,
    gigabytes_per_second: float,
    sixteen: float,
    eight: float = 0.0,
    int8: float = 0.0,
    four: float = 0.0,
) -> GpuModel:
    """Build a row; arithmetic in tera-operations, 0 where there is none."""
    return GpuModel(
        name=name,
        generation=generation,
        compute_capability=capability,
        memory_bytes=gib * 2**30,
        bandwidth=gigabytes_per_second * 1e9,
        flops_16=sixteen * _TERA,
        flops_8=eight * _TERA or _NONE,
        ops_int8=int8 * _TERA or _NONE,
        flops_4=four * _TERA or _NONE,
    )


GPUS: Final = (
    _gpu("V100-16GB", "Volta", 7.0, 16.0, 900, 125),
    _gpu("V100-32GB", "Volta", 7.0, 32.0, 900, 125),
    _gpu("T4", "Turing", 7.5, 15.0, 320, 65, 0, 130),
    _gpu("A10", "Ampere", 8.6, 22.5, 600, 125, 0, 250),
    _gpu("A10G", "Ampere", 8.6, 22.5, 600, 70, 0, 140),
    _gpu("A30", "Ampere", 8.0, 24.0, 933, 165, 0, 330),
    _gpu("A40", "Ampere", 8.6, 45.0, 696, 149.7, 0, 299.3),
    _gpu("RTX-A6000", "Ampere", 8.6, 48.0, 768, 154.8, 0, 309.7),
    _gpu("A100-40GB", "Ampere", 8.0, 40.0, 1555, 312, 0, 624),
    _gpu("A100-80GB-PCIe", "Ampere", 8.0, 80.0, 1935, 312, 0, 624),
    _gpu("A100-80GB-SXM", "Ampere", 8.0, 80.0, 2039, 312, 0, 624),
    _gpu("L4", "Ada", 8.9, 22.5, 300, 121, 242, 242),
    _gpu("L40", "Ada", 8.9, 45.0, 864, 181, 362, 362),
    _gpu("L40S", "Ada", 8.9, 45.0, 864, 362, 733, 733),
    _gpu("RTX-6000-Ada", "Ada", 8.9, 48.0, 960, 364.2, 728.5, 728.5),
    _gpu("H100-PCIe", "Hopper", 9.0, 79.6, 2000, 756, 1513, 1513),
    _gpu("H100-SXM", "Hopper", 9.0, 79.6, 3350, 989, 1979, 1979),
    _gpu("H100-NVL", "Hopper", 9.0, 93.6, 3900, 835, 1671, 1671),
    _gpu("H200-SXM", "Hopper", 9.0, 140.4, 4800, 989, 1979, 1979),
    _gpu("H200-NVL", "Hopper", 9.0, 140.4, 4800, 835, 1671, 1671),
    _gpu("GH200-96GB", "Hopper", 9.0, 95.6, 4000, 989, 1979, 1979),
    _gpu("GH200-144GB", "Hopper", 9.0, 143.0, 4900, 989, 1979, 1979),
    _gpu("H20", "Hopper", 9.0, 95.6, 4000, 148, 296, 296),
    _gpu("B200", "Blackwell", 10.0, 179.0, 8000, 2250, 4500, 4500, 9000),
    _gpu("GB200", "Blackwell", 10.0, 185.0, 8000, 2500, 5000, 5000, 10000),
    # Blackwell Ultra gave most of its INT8 up for FP4: it has hardly any, and none is promised here.
    _gpu("B300", "Blackwell", 10.3, 268.6, 8000, 2250, 4500, 0, 13500),
    _gpu("GB300", "Blackwell", 10.3, 277.0, 8000, 2500, 5000, 0, 15000),
    _gpu("RTX-PRO-6000-Server", "Blackwell", 12.0, 95.6, 1597, 500, 1000, 1000, 2000),
    _gpu("RTX-PRO-6000-Workstation", "Blackwell", 12.0, 95.6, 1792, 500, 1000, 1000, 2000),
    _gpu("MI250X-GCD", "CDNA2", 0.0, 64.0, 1638, 191.5, 0, 191.5),
    _gpu("MI300X", "CDNA3", 0.0, 192.0, 5300, 1307, 2615, 2615),
    _gpu("MI325X", "CDNA3", 0.0, 256.0, 6000, 1307, 2615, 2615),
    _gpu("MI350X", "CDNA4", 0.0, 288.0, 8000, 2307, 4614, 4614, 9227),
    _gpu("MI355X", "CDNA4", 0.0, 288.0, 8000, 2517, 5033, 5033, 10066),
    _gpu("Gaudi2", "Gaudi2", 0.0, 96.0, 2450, 432, 865),
    _gpu("Gaudi3", "Gaudi3", 0.0, 128.0, 3700, 1835, 1835),
)
"""One row a product. Tera-operations per second: 16-bit, 8-bit floating point, 8-bit integer, 4-bit floating point."""
_BY_NAME: Final = {one.name: one for one in GPUS}
_NAMES: Final = tuple(
    (re.compile(pattern), _BY_NAME[name])
    for pattern, name in (
        (r"t4|g4dn", "T4"),
        (r"v100(?: sxm[23])?(?: 16gb)?|p3", "V100-16GB"),
        (r"v100 (?:sxm[23] )?32gb|v100 sxm[23] 32gb ls|p3dn", "V100-32GB"),
        (r"a10", "A10"),
        (r"a10g|g5", "A10G"),
        (r"a30(?: 24gb)?", "A30"),
        (r"a40(?: 48gb)?", "A40"),
        (r"rtx a6000", "RTX-A6000"),
        # GKE's "nvidia-tesla-a100" is the smaller one; a bare "a100" may be either.
        (r"tesla a100|a100 (?:(?:sxm4|pcie) )?40gb(?: pcie)?|p4d|a2 highgpu", "A100-40GB"),
        (r"a[18]00 (?:pcie 80gb|80gb pcie)|nc\d+ads a100 v4", "A100-80GB-PCIe"),
        (r"a[18]00 (?:sxm4 )?80gb|p4de|a2 ultragpu|nd\d+amsr a100 v4", "A100-80GB-SXM"),
        (r"l4|g6|gr6|g2 standard", "L4"),
        (r"l40", "L40"),
        (r"l40s|g6e", "L40S"),
        (r"rtx 6000 ada(?: generation)?", "RTX-6000-Ada"),
        (r"h[18]00 pcie(?: 80gb)?", "H100-PCIe"),
        (
            r"h[18]00(?: mega)?(?: sxm5)?(?: 80gb)?(?: hbm3)?|p5|a3 (?:high|mega|edge)gpu|nd\d+isr h100 v5",
            "H100-SXM",
        ),
        (r"h100 nvl(?: 94gb)?|nc\d+ads h100 v5", "H100-NVL"),
        (r"h200(?: sxm5)?(?: 141gb)?(?: hbm3e)?|p5en?|a3 ultragpu|nd\d+isr h200 v5", "H200-SXM"),
        (r"h200 nvl(?: 141gb)?", "H200-NVL"),
        (r"gh200(?: 480gb| 96gb)?(?: hbm3)?", "GH200-96GB"),
        (r"gh200 144gb?(?: hbm3e)?", "GH200-144GB"),
        (r"h20(?: 96gb)?(?: hbm3)?", "H20"),
        (r"b200(?: 180gb)?(?: hbm3e)?|p6 b200|a4 highgpu", "B200"),
        (r"gb200(?: nvl\d+)?|a4x highgpu|p6e gb200", "GB200"),
        (r"b300(?: sxm6)?(?: ac)?|p6 b300", "B300"),
        (r"gb300(?: nvl\d+)?|a4x maxgpu", "GB300"),
        (r"rtx pro 6000(?: blackwell)?(?: server)?(?: edition)?|g4 standard|g7e", "RTX-PRO-6000-Server"),
        (r"rtx pro 6000 blackwell workstation(?: edition)?", "RTX-PRO-6000-Workstation"),
        (r"mi250x?(?: mi250x?)?(?: oam)?", "MI250X-GCD"),
        (r"mi300x(?: oam)?(?: \d+gb)?|nd\d+isr mi300x v5", "MI300X"),
        (r"mi325x(?: oam)?", "MI325X"),
        (r"mi350x(?: oam)?", "MI350X"),
        (r"mi355x(?: oam)?", "MI355X"),
        (r"gaudi ?2|hl 225.*|dl2q", "Gaudi2"),
        (r"gaudi ?3|hl 325.*|hl 338.*", "Gaudi3"),
    )
)
_MIG: Final = re.compile(r"\bmig (\d)g (\d+)gb(?: me(?: all)?)?$")
_VIRTUAL: Final = re.compile(r"^grid\b|\b\d+[qcba]$|\bvgpu\b")
_COMPUTE_SLICES: Final = {"A30": 4.0}
"""Parts that a GPU is cut into, where it is not seven for arithmetic and eight for memory."""


def recognise(name: str) -> GpuModel | Unknown:
    """Return a GPU's facts by its name as NVML, a node label or a cloud's shorthand writes it.

    A MIG slice has its share of the arithmetic (one of seven parts each) and of memory and bandwidth (by its
    gigabytes). A time-sliced GPU ("-SHARED") keeps its figures and says so.
    """
    plain = _plain(name)
    if not plain:
        return Unknown(UnknownReason.NOT_MEASURED, f"no name of a GPU: {_REMEDY}")
    shared = plain.endswith(" shared")
    plain = plain.removesuffix(" shared")
    slice_ = _MIG.search(plain)
    if slice_ is not None:
        plain = plain[: slice_.start()].strip()
    if slice_ is None and _VIRTUAL.search(plain):
        return Unknown(
            UnknownReason.UNSUPPORTED, f"{name[:40]} is a virtual GPU: its share of the board is not in its name"
        )
    found = next((gpu for pattern, gpu in _NAMES if pattern.fullmatch(plain)), None)
    if found is None:
        return Unknown(UnknownReason.UNSUPPORTED, f"{name[:40]!r} is not in the table of GPUs: {_REMEDY}")
    if slice_ is not None:
        found = _slice(found, compute=int(slice_[1]), gigabytes=int(slice_[2]))
    return replace(found, shared=True) if shared else found


def _plain(name: str) -> str:
    """Bring a name into one form: words in lower case, makers left out."""
    if len(name) > MAX_NAME:
        return ""
    # Sizes of instances say nothing about their GPUs ("p5.48xlarge", "a3-highgpu-8g", "Standard_ND96...").
    text = re.sub(r"\.(?:\d*x?large|metal.*)$", "", name.strip().lower().removeprefix("standard_"))
    words = re.sub(r"[^a-z0-9]+", " ", text).strip()
    words = re.sub(r"^((?:a\d|g\d)x? [a-z]+) \d+g?$", r"\1", words)
    kept = [word for word in words.split() if word not in {"nvidia", "amd", "instinct", "intel", "habana"}]
    # "Tesla" is noise but for the one shorthand that it tells apart.
    if kept != ["tesla", "a100"]:
        kept = [word for word in kept if word != "tesla"]
    return " ".join(kept)


def _slice(whole: GpuModel, *, compute: int, gigabytes: int) -> GpuModel:
    """Return the facts of one MIG slice; memory and bandwidth come in eighths (quarters on an A30)."""
    parts = _COMPUTE_SLICES.get(whole.name, 8.0)
    nominal = whole.memory_bytes / 2**30
    memory = min(1.0, max(1.0, round(gigabytes / nominal * parts)) / parts)
    share = min(1.0, compute / _COMPUTE_SLICES.get(whole.name, 7.0))

    def part(value: Value) -> Value:
        return value if isinstance(value, Unknown) else value * share

    return replace(
        whole,
        name=f"{whole.name} MIG {compute}g.{gigabytes}gb",
        memory_bytes=whole.memory_bytes * memory,
        bandwidth=whole.bandwidth * memory,
        flops_16=whole.flops_16 * share,
        flops_8=part(whole.flops_8),
        ops_int8=part(whole.ops_int8),
        flops_4=part(whole.flops_4),
    )
