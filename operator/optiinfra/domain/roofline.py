"""What a GPU needs at least for a step or a prompt: bytes of weights over bandwidth, operations over arithmetic.

A decode step reads the weights that its tokens use once, however many tokens it makes, so that it takes at least
`weight bytes / bandwidth`; a token takes two operations a parameter it uses, so that a prompt of n tokens takes at
least `2 x active parameters x n / operations per second`. Tensor parallelism divides both; a pipeline does not, for
its stages take turns. In a mixture of experts a batch of B tokens uses each expert with the chance
`1 - (1 - active / all)^B`, which counts what all tokens share among the experts and so errs towards more reading.
Measured times are longer; nothing here knows by how much.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason, Value

SIXTEEN_BITS: Final = 2.0
_TEXT_SHARE: Final = 1.05e9
"""Parameters of embedding and output layer of a model of `_TEXT_MODEL` parameters (vocabulary of 128 K); they grow
with the width of a model, about the root of its size, and stay in 16 bits."""
_TEXT_MODEL: Final = 8e9
_MOST_TEXT: Final = 0.25
_BYTES: Final[Mapping[str, float]] = {
    "fp8": 1.0,
    "fp8_per_tensor": 1.0,
    "fp8_per_block": 1.0,
    "w8a8_fp8": 1.0,
    "mxfp8": 1.03,
    "int8": 1.0,
    "w8a8": 1.0,
    "w8a8_int8": 1.0,
    "w8a16": 1.0,
    "8bit": 1.0,
    "eetq": 1.0,
    # Four bits with a scale for every 128 weights, or every 32 or 16 in the block formats.
    "awq": 0.53,
    "awq_marlin": 0.53,
    "gptq": 0.53,
    "gptq_marlin": 0.53,
    "marlin": 0.53,
    "w4a16": 0.53,
    "int4": 0.53,
    "4bit": 0.56,
    "bitsandbytes": 0.56,
    "bnb": 0.56,
    "mxfp4": 0.53,
    "nvfp4": 0.5625,
    "fp4": 0.5625,
    "modelopt_fp4": 0.5625,
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """One replica's GPUs and its model."""

    gpu: GpuModel
    parameters: float
    active: float
    tensor_group: float
    """GPUs that share each layer."""
    stages: float = 1.0

    def read_seconds(self, batch: float, bytes_each: float) -> float:
        """Return the least time to read what a decode step of this batch uses."""
        used = self.parameters
        if self.active < self.parameters:
            used *= 1.0 - math.pow(1.0 - self.active / self.parameters, max(1.0, batch))
        return used * bytes_each / (self.gpu.bandwidth * self.tensor_group)

    def compute_seconds(self, tokens: float, operations_per_second: float) -> float:
        """Return the least time of the arithmetic of so many tokens."""
        return 2.0 * self.active * tokens / (operations_per_second * self.tensor_group)

    def weight_bytes(self, bytes_each: float) -> float:
        """Return the weights that one GPU keeps."""
        return self.parameters * bytes_each / (self.tensor_group * self.stages)

    def mixed(self, bytes_each: float) -> float:
        """Return the mean bytes of a parameter when embedding and output layer stay in 16 bits."""
        kept = min(_MOST_TEXT, _TEXT_SHARE * math.sqrt(self.parameters / _TEXT_MODEL) / self.parameters)
        return bytes_each * (1.0 - kept) + SIXTEEN_BITS * kept


def bytes_each(model: ModelFacts, settings: EngineSettings) -> Value:
    """Return the bytes of a parameter as it lies in the GPU now."""
    if not settings.quantization_known:
        return Unknown(UnknownReason.NOT_MEASURED, "whether the weights are quantised is not known")
    if settings.quantization:
        found = _BYTES.get(settings.quantization)
        if found is None:
            return Unknown(UnknownReason.UNSUPPORTED, f"the size of {settings.quantization[:24]} weights is not known")
        return found
    if settings.model_dtype in {"float32", "float", "fp32"}:
        return 4.0
    return model.weight_bytes_each


def roofline(model: ModelFacts, gpu: GpuModel, *, tensor_group: float, stages: Value) -> Roofline | Unknown:
    """Put together what is known, or say what is not."""
    if isinstance(model.parameters, Unknown):
        return model.parameters
    active = model.parameters if isinstance(model.active_parameters, Unknown) else model.active_parameters
    if model.parameters <= 0.0 or not 0.0 < active <= model.parameters or tensor_group < 1.0:
        return Unknown(UnknownReason.INVALID, f"{active:g} active of {model.parameters:g} parameters")
    return Roofline(gpu, model.parameters, active, tensor_group, 1.0 if isinstance(stages, Unknown) else stages)
