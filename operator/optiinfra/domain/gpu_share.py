"""A smaller share of a GPU, or fewer GPUs, for a workload that does not use what it asks for.

Where the GPU can be cut (MIG), the smallest profile is named that has the multiprocessors, the memory and, for a model
server, the bandwidth: decoding reads all weights for each step, so that half the memory slices may mean twice the time
a token. Where it cannot, sharing by MPS or by time-slicing is named with what it does not give: neither isolates
faults, and time-slicing isolates no memory. A workload that splits its model over GPUs gets no share of one; it is
asked for fewer whole ones only where some of them are surely not part of the split. Nothing is concluded from the
memory that an engine takes beforehand, and nothing from utilisation but that activity is no higher.
"""

from dataclasses import dataclass, field
from math import ceil, floor
from typing import Final

from optiinfra.domain import gpu_need, mig_profiles
from optiinfra.domain.cost import PriceList, saving
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction, Effect, Evidence, Proposal, RecommendationType, Refusal, Savings
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.gpu_need import MemoryNeed
from optiinfra.domain.gpu_use import GpuUse
from optiinfra.domain.mig_profiles import MigProfile
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.resource_patch import WorkloadName, workload_document
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.workload import ContainerFacts

WHOLE: Final = "nvidia.com/gpu"
SHARED: Final = "nvidia.com/gpu.shared"
BUSY_LIMIT: Final = 0.9
"""Of a share's multiprocessors, what the 99th percentile of activity may take."""
SPIKE_LIMIT: Final = 1.5
"""Of a share's multiprocessors, what the largest moment may ask for: it only takes longer."""
MOST_SHARERS: Final = 8
DAY: Final = 86_400.0
_TYPE: Final = RecommendationType.GPU_SHARE
_NOT_MEASURED: Final = Unknown(UnknownReason.NOT_MEASURED, "not measured")


@dataclass(frozen=True, slots=True)
class ShareCase:
    """One container that asks for GPUs."""

    workload: WorkloadName
    container: ContainerFacts
    gpu: GpuModel | Unknown
    use: GpuUse | Unknown
    replicas: int
    settings: EngineSettings = field(default_factory=EngineSettings)
    model: ModelFacts = field(default_factory=ModelFacts)
    objectives: Objectives = field(default_factory=Objectives)
    inter_token_latency: Value = _NOT_MEASURED
    """p95, seconds."""
    first_token: Value = _NOT_MEASURED
    """p95, seconds."""
    pool_tokens: Value = _NOT_MEASURED
    """KV tokens that the pool of one replica holds."""
    prices: PriceList = field(default_factory=PriceList)

    @property
    def serves(self) -> bool:
        """Whether the container is the engine."""
        return not isinstance(self.settings.engine, Unknown) and self.settings.container == self.container.name

    @property
    def gpu_name(self) -> str:
        """For people and for prices."""
        return "" if isinstance(self.gpu, Unknown) else self.gpu.name


def advise(case: ShareCase) -> Proposal | Refusal | None:
    """Propose less, or say why not; None for a container without whole GPUs of NVIDIA."""
    count = dict(case.container.gpu_resources).get(WHOLE, 0.0)
    if not count:
        return None
    if count > 1.0:
        return _fewer(case, count)
    if case.serves and any(
        not isinstance(value, Unknown) and value > 1.0
        for value in (case.settings.tensor_parallel, case.settings.pipeline_parallel)
    ):
        return _refuse("TensorParallel", "its model is split over several GPUs, and a share of one cannot take part")
    if isinstance(case.use, Unknown):
        return _refuse(str(case.use.reason), case.use.detail)
    if isinstance(case.gpu, Unknown):
        return _refuse("GPUUnknown", f"what its GPU can be cut into is not known: {case.gpu.detail}")
    if case.gpu.shared:
        return _refuse("GPUShared", f"the {case.gpu.name} is shared between pods already")
    need = gpu_need.needed(
        case.use, settings=case.settings, model=case.model, serves=case.serves, pool_tokens=case.pool_tokens
    )
    if isinstance(need, Unknown):
        return _refuse("NeedUnknown", need.detail)
    profiles = mig_profiles.profiles_of(case.gpu)
    if isinstance(profiles, Unknown):
        return _refuse("GPUUnknown", profiles.detail)
    return _cut(case, case.gpu, case.use, need, profiles) if profiles else _shared(case, case.gpu, case.use, need)


def _refuse(reason: str, text: str) -> Refusal:
    return Refusal(_TYPE, reason, f"GPU share: {text}")


def _fewer(case: ShareCase, count: float) -> Proposal | Refusal:
    """Ask for fewer whole GPUs where the engine was told to use fewer than it is given."""
    settings = case.settings
    if not case.serves:
        return _refuse("GPUCountUnknown", f"which of its {count:g} GPUs a program needs is its own affair")
    known = [
        1.0 if isinstance(value, Unknown) else value
        for value in (settings.tensor_parallel, settings.pipeline_parallel, settings.data_parallel)
    ]
    if isinstance(settings.tensor_parallel, Unknown):
        return _refuse("GPUCountUnknown", f"over how many of its {count:g} GPUs the engine splits is not known")
    used = known[0] * known[1] * known[2]
    if used >= count:
        return _refuse("TensorParallel", f"the engine uses all of its {count:g} GPUs together; fewer hold less of it")
    text = f"the engine splits over {used:g} GPUs (its arguments), and each replica asks for {count:g}"
    freed = (count - used) * case.replicas
    return _proposal(
        case,
        reason="FewerGPUs",
        text=text,
        proposed=f"{used:g}",
        current=f"{count:g}",
        patch={WHOLE: f"{used:g}"},
        sure=0.9,
        savings=saving(case.prices, gpus=freed, gpu_model=case.gpu_name),
        risk="a program beside the engine in the same container would lose its GPU",
    )


def _cut(
    case: ShareCase, gpu: GpuModel, use: GpuUse, need: MemoryNeed, profiles: tuple[MigProfile, ...]
) -> Proposal | Refusal:
    """Propose the smallest profile that has enough of everything."""
    smaller = [one for one in profiles if one.compute < 1.0]
    # The one of which most fit a GPU frees most; among equals the one with less memory leaves more for others.
    ranked = sorted(smaller, key=lambda one: (-one.instances, one.memory, one.compute))
    why: list[str] = []
    for profile in ranked:
        lacks = _lacks(case, use, need, profile)
        if lacks is None:
            return _profile(case, gpu, use, need, profile, why)
        why.append(f"{profile.name} lacks {lacks}")
    return _refuse("NoSmallerShare", f"no smaller share of the {gpu.name} is enough: {'; '.join(why[-3:])}")


def _lacks(case: ShareCase, use: GpuUse, need: MemoryNeed, profile: MigProfile) -> str | None:
    """Say what a profile does not have; None when it has everything."""
    if not need.fits(profile.usable_bytes):
        return f"memory ({_gib(profile.usable_bytes)} for {_gib(need.total / need.takes)})"
    if use.activity_p99 > BUSY_LIMIT * profile.activity or use.activity_most > SPIKE_LIMIT * profile.activity:
        return f"multiprocessors ({profile.activity:.0%} for {use.activity_p99:.0%}, {use.activity_most:.0%} at most)"
    if not case.serves:
        return None
    token, first = case.inter_token_latency, case.first_token
    if isinstance(token, Unknown) or isinstance(first, Unknown):
        return "a measured latency to judge it by (no requests lately)"
    if token / profile.memory > case.objectives.inter_token_latency_p95:
        return f"bandwidth (up to {token / profile.memory * 1000.0:.3g} ms a token)"
    if first / profile.activity > case.objectives.time_to_first_token_p95:
        return f"speed for prompts (up to {first / profile.activity:.3g} s to the first token)"
    return None


def _profile(
    case: ShareCase, gpu: GpuModel, use: GpuUse, need: MemoryNeed, profile: MigProfile, why: list[str]
) -> Proposal:
    text = (
        f"its GPU ({gpu.name}) is active to {_activity(use)} and it needs {_gib(need.total)} ({need.basis}); profile "
        f"{profile.name} has {profile.compute:.0%} of the multiprocessors and {_gib(profile.usable_bytes)}, and "
        f"{profile.instances} of them fit one GPU"
    )
    if why:
        text += f"; {why[-1]}"
    whole = ceil(case.replicas / profile.instances)
    effects = [
        Effect("gpus_held", "gpus", float(case.replicas), float(whole), float(whole), float(case.replicas), "packed")
    ]
    if case.serves and not isinstance(case.inter_token_latency, Unknown):
        now = case.inter_token_latency
        effects.append(
            Effect("inter_token_latency", "seconds", now, now, now, now / profile.memory, "share of the bandwidth")
        )
    risk = (
        "the node's device plugin has to offer this profile (strategy mixed), and its GPU must be empty to be cut; "
        "no NVLink and no peer access between instances"
    )
    if profile.instances == 1:
        risk += "; only one such instance fits a GPU, and what it leaves must find somebody else"
    if use.loads == 0:
        risk += "; no load of it was seen, so watch one"
    freed = case.replicas * (1.0 - 1.0 / profile.instances) if profile.instances > 1 else 0.0
    return _proposal(
        case,
        reason="SmallerGPUShare",
        text=text,
        current="1 x nvidia.com/gpu",
        proposed=f"1 x {profile.resource}",
        patch={WHOLE: "", profile.resource: "1"},
        sure=_sure(use),
        savings=saving(case.prices, gpus=freed, gpu_model=case.gpu_name),
        risk=risk,
        effects=tuple(effects),
        evidence=_evidence(use, need),
    )


def _shared(case: ShareCase, gpu: GpuModel, use: GpuUse, need: MemoryNeed) -> Proposal | Refusal:
    """Propose to share a GPU that cannot be cut."""
    by_memory = floor(gpu.memory_bytes * need.takes / need.total) if need.total > 0.0 else MOST_SHARERS
    by_activity = floor(BUSY_LIMIT / use.activity_p99) if use.activity_p99 > 0.0 else MOST_SHARERS
    sharers = min(by_memory, by_activity, MOST_SHARERS)
    if sharers < 2:
        short = "memory" if by_memory < 2 else "multiprocessors"
        text = (
            f"the {gpu.name} has no MIG, and {short} for no second pod like this ({_gib(need.total)}, {_activity(use)})"
        )
        return _refuse("NoSmallerShare", text)
    if case.serves and (late := _late_when_shared(case, sharers)):
        return _refuse("NoSmallerShare", f"the {gpu.name} has no MIG, and {sharers} that share it {late}")
    text = (
        f"its GPU ({gpu.name}, which has no MIG) is active to {_activity(use)} and it needs {_gib(need.total)} "
        f"({need.basis}): {sharers} pods like it can share one by MPS, or by time-slicing"
    )
    if case.serves:
        text += f"; give the engine at most {need.takes / sharers:.2f} of the memory, for it takes what it finds"
    risk = (
        "MPS limits memory and multiprocessors to equal parts, and a fault of one pod ends all; time-slicing isolates "
        "neither memory nor faults, and every pod waits while another computes; the device plugin must be told "
        f"(sharing, {sharers} replicas, renameByDefault) before the patch is applied"
    )
    return _proposal(
        case,
        reason="ShareGPU",
        text=text,
        current="1 x nvidia.com/gpu",
        proposed=f"1 x {SHARED}, {sharers} a GPU",
        patch={WHOLE: "", SHARED: "1"},
        sure=0.7 * _sure(use),
        savings=saving(case.prices, gpus=case.replicas * (1.0 - 1.0 / sharers), gpu_model=case.gpu_name),
        risk=risk,
        evidence=_evidence(use, need),
    )


def _late_when_shared(case: ShareCase, sharers: int) -> str:
    """Say which promise would break if all sharers computed at once; empty when none would."""
    token, first = case.inter_token_latency, case.first_token
    if isinstance(token, Unknown) or isinstance(first, Unknown):
        return "cannot be judged, because its latency was not measured lately"
    if token * sharers > case.objectives.inter_token_latency_p95:
        return f"would take up to {token * sharers * 1000.0:.3g} ms a token"
    if first * sharers > case.objectives.time_to_first_token_p95:
        return f"would take up to {first * sharers:.3g} s to the first token"
    return ""


def _proposal(
    case: ShareCase,
    *,
    reason: str,
    text: str,
    current: str,
    proposed: str,
    patch: dict[str, str],
    sure: float,
    savings: Savings,
    risk: str,
    effects: tuple[Effect, ...] = (),
    evidence: tuple[Evidence, ...] = (),
) -> Proposal:
    name = case.container.name
    own = Evidence("gpus_requested", case.container.gpus, "gpus", Seconds(0.0), "kubernetes")
    return Proposal(
        type=_TYPE,
        reason=reason,
        message=f"containers[{name}]: {text}",
        setting=f"containers[{name}].limits.{WHOLE}",
        current=current,
        proposed=proposed,
        lower=proposed,
        upper=current,
        direction=Direction.RESIZE,
        confidence=Ratio(round(sure, 3)),
        evidence=(*evidence, own),
        savings=savings,
        subject=name,
        patch=workload_document(
            case.workload, container=name, place=case.container.place, resources={"requests": patch, "limits": patch}
        ),
        effects=effects,
        risk=risk,
        verification=(
            "after one restart: the pod is scheduled, the model loads, and latency stays within the objectives over a "
            "busy hour; change nothing else of this workload meanwhile"
        ),
        undo=f"Put {current} back on container {name}; each replica restarts once.",
    )


def _evidence(use: GpuUse, need: MemoryNeed) -> tuple[Evidence, ...]:
    signal = "gpu_utilization" if use.bound else "gpu_sm_active"
    return (
        Evidence(signal, use.activity_p99, "ratio", use.span, "agent", "p99"),
        Evidence(signal, use.activity_most, "ratio", use.span, "agent", "max"),
        Evidence("gpu_memory_used", use.memory_peak, "bytes", use.span, "agent", "max"),
        Evidence("gpu_memory_needed", need.total, "bytes", use.span, "derived"),
        Evidence("loads_seen", float(use.loads), "", use.span, "agent", "sum"),
        Evidence("samples", float(use.samples), "", use.span, "agent", "sum"),
    )


def _activity(use: GpuUse) -> str:
    what = "at most, by utilisation, " if use.bound else ""
    return f"{what}{use.activity_p99:.0%} (p99; {use.activity_most:.0%} at most) in {use.span / DAY:.2g} days"


def _sure(use: GpuUse) -> float:
    """Return the confidence: a week of samples with a load in it counts in full."""
    week = min(1.0, use.span / (7.0 * DAY))
    return 0.9 * (0.4 + 0.6 * week) * (1.0 if use.loads else 0.6) * (1.0 - use.dark)


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
