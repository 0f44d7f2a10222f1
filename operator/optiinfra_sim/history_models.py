"""Which models a made-up fleet serves, and what is true of each: labelled by construction, never by a classifier.

| label | by construction |
|---|---|
| Idle | nobody asks it for anything; its replicas keep their GPUs |
| OverProvisioned | as many replicas all the time as several times its busiest hour needs |
| KvShort | its pool holds fewer requests than its busy hours bring; batch limit and GPU have room |
| BatchBound | its batch limit is below what its busy hours bring; pool and GPU have room |
| Healthy | a scaler keeps its replicas at TARGET of what they can serve |

A fleet is a list of `ModelPlan`; how large each part is was chosen so that the whole fits the GPUs that exist.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from optiinfra_sim.errors import EngineError
from optiinfra_sim.history_traffic import SERVICES
from optiinfra_sim.settings import EngineKind, EngineSettings

TARGET: Final = 0.7
"""Share of what replicas can serve at which a healthy model's scaler keeps them."""
GPU_HOUR: Final = 55.04 / 8
"""USD, of p5.48xlarge in us-east-1 on demand (AWS' price list, 2026-01-19): the nodes that the fleet claims to be."""
CLUSTERS: Final = ("prod-a", "prod-b")
LARGE: Final = 4
"""Replicas of so many GPUs live on nodes of their own, or single GPUs would take their places."""


class Label(enum.StrEnum):
    """What is true of a model."""

    IDLE = "Idle"
    OVER_PROVISIONED = "OverProvisioned"
    KV_SHORT = "KvShort"
    BATCH_BOUND = "BatchBound"
    HEALTHY = "Healthy"


@dataclass(frozen=True, slots=True)
class Size:
    """A class of models: GPUs of one replica, and what its engine's steps cost (an H100 each, bf16 but the largest)."""

    name: str
    gpus: int
    settings: EngineSettings
    weights_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model of a fleet."""

    name: str
    namespace: str
    workload: str
    cluster: str
    label: Label
    size: Size
    settings: EngineSettings
    replicas: int
    """All the time; of a healthy one the most that its scaler may run."""
    load: float
    """Mean load over what `replicas` serve at most; of a healthy one the mean of the replicas that it keeps busy."""
    service: str
    offset_s: float
    lengths: tuple[float, float]
    """Mean prompt and output tokens."""

    @property
    def scaled(self) -> bool:
        """Whether a HorizontalPodAutoscaler sets its replicas."""
        return self.label is Label.HEALTHY


def _size(name: str, gpus: int, *, step: float, sequence: float, prefill: float, blocks: int, weights: float) -> Size:
    settings = EngineSettings(
        model_name=name,
        step_seconds=step,
        sequence_seconds=sequence,
        prefill_token_seconds=prefill,
        num_blocks=blocks,
        prefix_hit_share=0.2,
    )
    return Size(name, gpus, settings, weights)


_8B: Final = _size("8b", 1, step=0.007, sequence=0.00006, prefill=0.000025, blocks=28_000, weights=15)
_32B: Final = _size("32b", 2, step=0.012, sequence=0.00007, prefill=0.000055, blocks=22_000, weights=62)
_70B: Final = _size("70b", 4, step=0.013, sequence=0.00008, prefill=0.000062, blocks=29_000, weights=132)
_405B: Final = _size("405b", 8, step=0.032, sequence=0.00011, prefill=0.00015, blocks=20_000, weights=380)
_NAMES: Final = {
    "8b": ("llama-3.1-8b", "granite-3-8b", "ministral-8b", "qwen3-8b"),
    "32b": ("qwen3-32b", "gemma-3-27b", "olmo-2-32b"),
    "70b": ("llama-3.3-70b", "qwen2.5-72b"),
    "405b": ("llama-3.1-405b",),
}
_USES: Final = (
    "chat", "search", "support", "code", "triage", "summaries", "extract", "translate", "agents", "rerank",
    "moderate", "label", "draft", "voice", "mail", "forms", "legal", "notes", "tutor", "news",
)  # fmt: skip
_NAMESPACES: Final = ("chat", "search", "platform", "labs")
_LENGTHS: Final = ((1040.0, 160.0), (790.0, 113.0), (440.0, 50.0), (1500.0, 300.0), (600.0, 220.0))
"""Means of ServeGen's three services, and two longer ones."""


def _plans(wanted: Sequence[tuple[Label, Size, int, float]], *, seed: int) -> tuple[ModelPlan, ...]:
    plans = []
    filled = {(cluster, large): 0 for cluster in range(2) for large in (False, True)}
    for number, (label, size, replicas, load) in enumerate(wanted):
        # Where less of its kind is deployed.
        large = size.gpus >= LARGE
        side = int(filled[1, large] < filled[0, large])
        filled[side, large] += replicas * size.gpus
        turn = number + seed
        use = _USES[number % len(_USES)] + ("" if number < len(_USES) else f"-{number // len(_USES) + 1}")
        model = _NAMES[size.name][turn % len(_NAMES[size.name])]
        # Every fifth speaks SGLang, every eighth TGI: enough of each to be found missing.
        kind = EngineKind.SGLANG if turn % 5 == 2 else EngineKind.TGI if turn % 8 == 4 else EngineKind.VLLM
        if label is Label.KV_SHORT and kind is EngineKind.TGI:
            kind = EngineKind.VLLM  # TGI tells no residency: nobody could see it there
        settings = replace(size.settings, kind=kind, model_name=model)
        lengths = _LENGTHS[turn % len(_LENGTHS)]
        if label is Label.KV_SHORT:
            lengths = (1500.0, 600.0)
            settings = replace(settings, num_blocks=4_000, max_model_len=16_384)
        if label is Label.BATCH_BOUND:
            lengths = (600.0, 300.0)
            settings = replace(settings, max_num_seqs=24)
        plans.append(
            ModelPlan(
                name=model,
                namespace=f"{_NAMESPACES[number // 2 % len(_NAMESPACES)]}-{'ab'[side]}",
                workload=f"{use}-{model.replace('.', '-')}",
                cluster=CLUSTERS[side],
                label=label,
                size=size,
                settings=settings,
                replicas=replicas,
                load=load,
                service=SERVICES[turn % 3],
                offset_s=6 * 3600.0 * (turn % 4),
                lengths=lengths,
            )
        )
    return tuple(plans)


_I, _O, _K, _B, _H = Label.IDLE, Label.OVER_PROVISIONED, Label.KV_SHORT, Label.BATCH_BOUND, Label.HEALTHY
_FULL: Final = (
    *((_I, size, replicas, 0.0) for size, replicas in ((_8B, 2), (_8B, 3), (_32B, 1), (_32B, 1), (_8B, 1), (_70B, 2))),
    *(
        (_O, size, replicas, load)
        for size, replicas, load in (
            (_8B, 6, 0.15), (_8B, 4, 0.12), (_32B, 3, 0.14), (_70B, 3, 0.14), (_8B, 7, 0.1), (_32B, 4, 0.16),
            (_8B, 5, 0.15), (_70B, 3, 0.1),
        )
    ),
    *((_K, size, replicas, 0.72) for size, replicas in ((_8B, 2), (_8B, 3), (_32B, 2), (_70B, 1), (_8B, 2))),
    *((_B, size, replicas, 0.75) for size, replicas in ((_8B, 2), (_8B, 2), (_32B, 1), (_70B, 1), (_8B, 3))),
    *(
        (_H, size, replicas, load)
        for size, replicas, load in (
            (_8B, 5, 2.1), (_8B, 5, 1.9), (_8B, 4, 1.6), (_8B, 4, 1.5), (_8B, 4, 1.7), (_8B, 4, 1.6), (_8B, 4, 1.7),
            (_8B, 3, 1.3), (_8B, 3, 1.2), (_32B, 3, 1.4), (_32B, 2, 0.9), (_32B, 2, 0.9), (_32B, 2, 0.8),
            (_70B, 2, 0.9), (_70B, 2, 0.8), (_405B, 1, 0.45),
        )
    ),
)  # fmt: skip
_SMALL: Final = (
    (_I, _8B, 2, 0.0),
    (_O, _8B, 5, 0.13),
    (_H, _8B, 4, 1.6),
    (_K, _8B, 2, 0.72),
    (_B, _32B, 1, 0.75),
    (_O, _70B, 2, 0.1),
)
_TINY: Final = ((_I, _8B, 2, 0.0), (_O, _8B, 5, 0.13), (_H, _8B, 4, 1.6))


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet's models, its days, and the nodes (of eight GPUs) of each cluster: for small and for large replicas."""

    models: tuple[ModelPlan, ...]
    days: float
    nodes: tuple[tuple[int, int], tuple[int, int]]


FLEETS: Final = ("full", "small", "tiny", "brief")


def plan(name: str, *, seed: int = 1) -> FleetPlan:
    """Return a fleet by name: full (40 models, 200 GPUs, 14 days), small (6, 48, 2), tiny (3, 16, 1), brief (6 h)."""
    if name == "full":
        return FleetPlan(_plans(_FULL, seed=seed), 14.0, ((8, 5), (8, 4)))
    if name == "small":
        return FleetPlan(_plans(_SMALL, seed=seed), 2.0, ((2, 1), (2, 1)))
    if name == "tiny":
        return FleetPlan(_plans(_TINY, seed=seed), 1.0, ((1, 0), (1, 0)))
    if name == "brief":
        return FleetPlan(_plans(_TINY, seed=seed), 0.25, ((1, 0), (1, 0)))
    raise EngineError(f"no fleet {name}: choose of {', '.join(FLEETS)}")
