"""What advice on an engine's settings rests on, in one place: `tuning`, `quantization` and `kv_cache` share it.

Nothing is decided here; it keeps the modules that advise free of long argument lists.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings

Advice: TypeAlias = Proposal | Refusal


def because(value: Value) -> str:
    """Return why a value is not known, to stand behind a colon; the value itself where it is."""
    if isinstance(value, Unknown):
        return value.detail or str(value.reason)
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class AdviceInput:
    """One service's engines, as measured and as configured."""

    signals: ServiceSignals
    settings: EngineSettings
    diagnosis: Diagnosis
    objectives: Objectives
    gpu: GpuModel | Unknown = Unknown(UnknownReason.NOT_MEASURED, "the GPU's model is not known")
    model: ModelFacts = field(default_factory=ModelFacts)
    pace: Pace = field(default_factory=Pace)
    surroundings: Surroundings = field(default_factory=Surroundings)
