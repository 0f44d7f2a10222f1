"""Whether a report on a played fleet says what is true: each label found, nobody wrongly accused, the money right.

| label | found when the report |
|---|---|
| Idle | proposes to free it because it is idle |
| OverProvisioned | proposes fewer replicas that free at least FREED of its GPU-hours |
| KvShort | names the KV cache as what limits it most, Healthy and Idle aside |
| BatchBound | names the batch limit as that |
| Healthy | neither calls it idle nor proposes to free more than WASTE of its GPU-hours |

A model kept at 70 % of what it can serve leaves room, and a scaler that knows its load saves some of it by right
(docs/benchmarks.md): so `WASTE` is a third. What is claimed beyond the replicas that the true load keeps busy all the
time cannot be had by anybody; it is counted apart (`savings_over`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optiinfra_sim.history_models import Label

FREED: Final = 0.2
WASTE: Final = 1.0 / 3.0
_PASSING: Final = frozenset({"Healthy", "Idle"})
_LIMITS: Final = {Label.KV_SHORT: "KVCache", Label.BATCH_BOUND: "Batch"}
_FREEING: Final = frozenset({"Replicas", "IdleGPU", "GPUShare"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One model, as it is and as it was told."""

    key: str
    label: Label
    found: bool
    """Of a healthy one: it was left in peace."""
    told: str
    gpu_hours: float
    told_gpu_hours: float
    freed_gpu_hours: float
    avoidable_gpu_hours: float
    least_gpu_hours: float


@dataclass(frozen=True, slots=True)
class Judged:
    """All of them, and the money."""

    verdicts: tuple[Verdict, ...]
    cost: float
    told_cost: float
    """USD, of the fleet in the window; NaN never: 0 where the report does not know."""
    gpu_hour: float
    simulated: bool
    """Whether the report says that what it read was simulated."""

    @property
    def recall(self) -> float:
        """Share of the labelled models (all but the healthy) that were found."""
        labelled = [one for one in self.verdicts if one.label is not Label.HEALTHY]
        return sum(one.found for one in labelled) / len(labelled) if labelled else 1.0

    @property
    def wrongly(self) -> list[str]:
        """Healthy models that were called wasteful."""
        return [one.key for one in self.verdicts if one.label is Label.HEALTHY and not one.found]

    @property
    def cost_off(self) -> float:
        """Told cost over the true one, less 1."""
        return self.told_cost / self.cost - 1.0

    @property
    def model_cost_off(self) -> float:
        """Largest distance of a model's told GPU-hours from its true ones, as a share."""
        return max(abs(one.told_gpu_hours / one.gpu_hours - 1.0) for one in self.verdicts)

    @property
    def savings_over(self) -> float:
        """GPU-hours told as savings that nobody could have saved, as a share of those that could be."""
        over = sum(max(0.0, one.freed_gpu_hours - (one.gpu_hours - one.least_gpu_hours)) for one in self.verdicts)
        return over / max(1.0, sum(one.gpu_hours - one.least_gpu_hours for one in self.verdicts))

    @property
    def avoidable_found(self) -> float:
        """GPU-hours told of idle and over-provisioned models, over those that a careful scaler would have saved."""
        wasteful = [one for one in self.verdicts if one.label in {Label.IDLE, Label.OVER_PROVISIONED}]
        return sum(one.freed_gpu_hours for one in wasteful) / max(1.0, sum(one.avoidable_gpu_hours for one in wasteful))

    def lines(self) -> Iterator[str]:
        """Yield one line a model."""
        for one in self.verdicts:
            mark = "ok    " if one.found else "MISSED"
            yield (
                f"{mark} {one.label.value:<16} {one.key:<42} freed {one.freed_gpu_hours:7.0f} of {one.gpu_hours:7.0f} "
                f"GPU-hours (avoidable {one.avoidable_gpu_hours:6.0f}, at most "
                f"{one.gpu_hours - one.least_gpu_hours:6.0f}); {one.told}"
            )


def judge(document: Mapping[str, Any], truth: Mapping[str, Any]) -> Judged:
    """Compare a report (`optiinfra report --format json`) with `history.truth_document`."""
    models = {f"{one['namespace']}/{one['workload']}": one for one in document["models"]}
    verdicts = tuple(
        _verdict(
            one, models.get(one["key"]), [each for each in document["opportunities"] if each["subject"] == one["key"]]
        )
        for one in truth["models"]
    )
    return Judged(
        verdicts=verdicts,
        cost=float(truth["cost"]),
        told_cost=_number(document["total"]["cost"]),
        gpu_hour=float(truth["gpu_hour"]),
        simulated=bool(document["simulated"]),
    )


def _verdict(
    true: Mapping[str, Any], told: Mapping[str, Any] | None, proposals: Sequence[Mapping[str, Any]]
) -> Verdict:
    label = Label(true["label"])
    hours = float(true["gpu_hours"])
    freeing = [one for one in proposals if one["type"] in _FREEING]
    freed = sum(float(one["saved"]["counted_gpu_hours"]) for one in freeing)
    limits = [] if told is None else [one for one in told["limits"] if one["bottleneck"] not in _PASSING]
    foremost = str(limits[0]["bottleneck"]) if limits else ""
    kinds = {str(one["type"]) for one in freeing}
    if label is Label.IDLE:
        found = "IdleGPU" in kinds
    elif label is Label.OVER_PROVISIONED:
        found = freed >= FREED * hours
    elif label is Label.HEALTHY:
        found = told is not None and "IdleGPU" not in kinds and freed <= WASTE * hours
    else:
        found = foremost == _LIMITS[label]
    shares = ", ".join(f"{one['bottleneck']} {float(one['share']):.0%}" for one in limits[:3])
    return Verdict(
        key=str(true["key"]),
        label=label,
        found=found,
        told="; ".join([*sorted(kinds), *([shares] if shares else [])])
        or ("nothing" if told is not None else "not there"),
        gpu_hours=hours,
        told_gpu_hours=0.0 if told is None else _number(told["gpu_hours"]["value"]),
        freed_gpu_hours=freed,
        avoidable_gpu_hours=float(true["avoidable_gpu_hours"]),
        least_gpu_hours=float(true["least_gpu_hours"]),
    )


def _number(value: Any) -> float:
    """Read a value; what is not known is an object with a reason, and counts as nothing told."""
    return 0.0 if isinstance(value, Mapping) else float(value)
