"""What tests of advice share: services whose limits are stated, not diagnosed."""

from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Proposal, Refusal
from optiinfra.domain.gpu_models import recognise as gpu
from optiinfra.domain.model_table import recognise as model
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import EngineKind, Unknown
from tests.unit.domain.made_up import UNKNOWN, signals_of


def fitted(base, slope, *, half=0.0, highest=64.0, **changes):
    """A fit, with half of its interval."""
    return Pace(
        **{
            "base": base,
            "slope": slope,
            "slope_lower": max(0.0, slope - half),
            "slope_upper": slope + half,
            "samples": 20,
            "batch_lowest": 4.0,
            "batch_highest": highest,
            "noise": 0.03,
        }
        | changes
    )


def case(
    bottleneck,
    *,
    signals=None,
    settings=None,
    objectives=None,
    gpu_name="NVIDIA H100 80GB HBM3",
    model_name="llama-3.1-8b",
    pace=None,
    limit=64.0,
    source="argument",
):
    """One service with a bottleneck, as advice sees it."""
    return AdviceInput(
        signals_of(**(signals or {})),
        EngineSettings(
            **{
                "engine": EngineKind.VLLM,
                "container": "vllm",
                "batch_limit": limit,
                "batch_limit_source": source,
                "quantization_known": True,
                "kv_cache_dtype": "auto",
            }
            | (settings or {})
        ),
        Diagnosis(bottleneck, 0.9, "Stated", "Stated by the test.", (), limit, source),
        objectives or Objectives(),
        gpu=gpu(gpu_name),
        model=model(model_name),
        pace=pace or Pace(),
    )


def effect(proposal, signal):
    """The one effect on a signal."""
    (found,) = (one for one in proposal.effects if one.signal == signal)
    return found


def is_complete(proposal):
    """What every proposal has to tell, whoever makes it."""
    assert isinstance(proposal, Proposal)
    assert proposal.setting
    assert proposal.current != proposal.proposed
    assert proposal.direction == "Resize"
    assert 0.0 < proposal.confidence <= 1.0
    assert proposal.risk
    assert proposal.verification
    assert proposal.undo
    assert proposal.evidence
    assert proposal.effects
    for one in proposal.effects:
        known = [value for value in (one.lower, one.expected, one.upper) if not isinstance(value, Unknown)]
        assert known == sorted(known), one
        assert one.basis
    return proposal


def is_refused(advice, reason):
    """A refusal with a reason and a sentence."""
    assert isinstance(advice, Refusal), advice
    assert advice.reason == reason, advice
    assert advice.message.endswith(".")
    return advice


__all__ = ["UNKNOWN", "Bottleneck", "case", "effect", "fitted", "is_complete", "is_refused"]
