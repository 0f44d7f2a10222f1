"""Which formats of quantised weights an engine runs well on a GPU, from the most to the least accurate.

Rules by engine: vLLM's table of supported hardware and its page on FP8 (Marlin kernels read FP8 and INT4 weights on
Ampere without computing in them; INT8 W8A8 from Turing to Hopper, not on Blackwell), SGLang's page on quantization,
TGI's on quantization (Marlin likewise), TensorRT-LLM's support matrix (ModelOpt checkpoints only), NIM's profiles.
Accuracy: Kurtic et al., "Give me BF16 or give me death?" (arXiv 2411.02355), over half a million evaluations: FP8 is
practically lossless, INT8 loses 1 to 3 %, INT4 weights about the same as INT8 and more on hard tasks.

A format that merely runs (dequantised by slow kernels, as AWQ on AMD) is not listed: it would cost speed.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.engine_flags import flags_of, parse_version
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.readings import EngineKind, Unknown, Value


class Arithmetic(StrEnum):
    """What products are computed in."""

    SIXTEEN = "16-bit"
    FP8 = "FP8"
    INT8 = "INT8"
    FP4 = "FP4"


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One way to keep weights smaller."""

    name: str
    bytes_each: float
    """Scales included."""
    arithmetic: Arithmetic
    value: str
    """Of the engine's quantization flag where 16-bit weights are converted while loading; else empty."""
    checkpoint: str
    """What has to be served instead, where a flag does not do."""
    caveat: str
    """What is known of its accuracy."""

    def operations(self, gpu: GpuModel) -> Value:
        """Return the GPU's operations per second in this format's arithmetic."""
        match self.arithmetic:
            case Arithmetic.SIXTEEN:
                return gpu.flops_16
            case Arithmetic.FP8:
                return gpu.flops_8
            case Arithmetic.INT8:
                return gpu.ops_int8
            case Arithmetic.FP4:
                return gpu.flops_4


_FP8_CAVEAT = "FP8 answers are practically as good on published evaluations; compare them on your own prompts first."
_INT8_CAVEAT = "INT8 loses 1 to 3 % on published evaluations; compare answers on your own prompts first."
_INT4_CAVEAT = (
    "4-bit weights lose a few percent on published evaluations, most on hard reasoning and long answers; compare "
    "answers on your own prompts first."
)
_MARLIN_SINCE_TURING = (0, 20)


def formats_for(engine: EngineKind, version: str, gpu: GpuModel) -> tuple[WeightFormat, ...]:
    """Return the formats that pay on a GPU, most accurate first; empty where there is none."""
    found = (_fp8(engine, version, gpu), _int8(engine, gpu), _four_bit(engine, gpu))
    return tuple(one for one in found if one is not None)


def _fp8(engine: EngineKind, version: str, gpu: GpuModel) -> WeightFormat | None:
    capability, native = gpu.compute_capability, not isinstance(gpu.flops_8, Unknown)
    marlin = 8.0 if engine is not EngineKind.VLLM or parse_version(version) < _MARLIN_SINCE_TURING else 7.5
    online = flags_of(engine, version).quantization_fp8
    if gpu.generation.startswith("Gaudi"):
        return None
    if native:
        checkpoint = "" if online else "an FP8 checkpoint (NVIDIA ModelOpt)"
        if engine is EngineKind.NIM:
            checkpoint = "a profile of precision fp8 (list-model-profiles names it)"
        if engine is EngineKind.TRTLLM and not capability:
            return None
        return WeightFormat("FP8", 1.0, Arithmetic.FP8, online, checkpoint, _FP8_CAVEAT)
    if online and capability >= marlin:
        return WeightFormat("FP8 (weights only)", 1.0, Arithmetic.SIXTEEN, online, "", _FP8_CAVEAT)
    return None


def _int8(engine: EngineKind, gpu: GpuModel) -> WeightFormat | None:
    if not isinstance(gpu.flops_8, Unknown) or isinstance(gpu.ops_int8, Unknown):
        return None
    least = {EngineKind.VLLM: 7.5, EngineKind.SGLANG: 8.0}.get(engine)
    if least is None or gpu.compute_capability < least:
        return None
    text = "an INT8 W8A8 checkpoint (compressed-tensors, LLM Compressor)"
    return WeightFormat("INT8 W8A8", 1.0, Arithmetic.INT8, "", text, _INT8_CAVEAT)


def _four_bit(engine: EngineKind, gpu: GpuModel) -> WeightFormat | None:
    capability = gpu.compute_capability
    if not isinstance(gpu.flops_4, Unknown):
        if capability and engine in {EngineKind.VLLM, EngineKind.SGLANG, EngineKind.TRTLLM}:
            text = "an NVFP4 checkpoint (NVIDIA ModelOpt, LLM Compressor)"
            return WeightFormat("NVFP4", 0.5625, Arithmetic.FP4, "", text, _INT4_CAVEAT)
        if capability and engine is EngineKind.NIM:
            text = "a profile of precision nvfp4 (list-model-profiles names it)"
            return WeightFormat("NVFP4", 0.5625, Arithmetic.FP4, "", text, _INT4_CAVEAT)
        if not capability and engine in {EngineKind.VLLM, EngineKind.SGLANG}:
            return WeightFormat("MXFP4", 0.53, Arithmetic.FP4, "", "an MXFP4 checkpoint (AMD Quark)", _INT4_CAVEAT)
        return None
    least = {EngineKind.VLLM: 7.5, EngineKind.SGLANG: 8.0, EngineKind.TGI: 8.0, EngineKind.TRTLLM: 8.0}.get(engine)
    if least is None or capability < least:
        return None
    text = "an AWQ or GPTQ checkpoint"
    return WeightFormat("INT4 (AWQ or GPTQ)", 0.53, Arithmetic.SIXTEEN, "", text, _INT4_CAVEAT)
