"""The page on advice against the code: every reason, GPU and model is on it, and nothing that is not."""

import re
from pathlib import Path

import pytest

from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.gpu_models import GPUS
from optiinfra.domain.model_table import MODELS
from optiinfra.domain.readings import EngineKind, Unknown

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/reference/advice.md").read_text()
SECTIONS = {
    "tuning.py": ("Batch size",),
    "step_tokens.py": ("Tokens of a step",),
    "quantization.py": ("Quantization",),
    "fewer_gpus.py": ("Quantization",),
    "weight_case.py": ("Quantization",),
}
REASON = re.compile(
    r"Refusal\(_[A-Z]+, \"([A-Za-z]+)\"|reason=\"([A-Za-z]+)\"|reason, bounds, sure = \"([A-Za-z]+)\""
    r"|reason=\"([A-Za-z]+)\" if known or .* else \"([A-Za-z]+)\""
)


def section(title):
    start = TEXT.index(f"\n## {title}\n")
    end = TEXT.find("\n## ", start + 1)
    return TEXT[start : end if end > 0 else None]


@pytest.mark.parametrize("module", SECTIONS)
def test_every_reason_of_a_module_is_in_its_section(module):
    source = (ROOT / "operator/optiinfra/domain" / module).read_text()
    reasons = {word for found in REASON.findall(source) for word in found if word}
    assert len(reasons) > 3
    words = {word for title in SECTIONS[module] for word in re.findall(r"`(\w+)`", section(title))}
    assert not reasons - words


def number(value):
    return "" if isinstance(value, Unknown) else f"{value / 1e12:g}"


def test_every_gpu_is_on_the_page_with_its_figures():
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section("GPU facts").splitlines()}
    for one in GPUS:
        row = (
            one.name,
            one.generation,
            f"{one.compute_capability or ''}",
            f"{one.memory_bytes / 2**30:g}",
            f"{one.bandwidth / 1e9:g}",
            number(one.flops_16),
            number(one.flops_8),
            number(one.ops_int8),
            number(one.flops_4),
        )
        assert row in rows, row


def test_every_model_is_on_the_page():
    known = section("Model facts").partition("Known: ")[2].rstrip().rstrip(".")
    assert sorted(re.split(r",\s+", known)) == sorted(MODELS)


def test_the_settings_are_those_of_the_newest_engines():
    for engine in (EngineKind.VLLM, EngineKind.SGLANG, EngineKind.TGI, EngineKind.TRTLLM):
        flags = flags_of(engine)
        assert f"`{flags.batch_limit}`" in section("Batch size")
        assert f"`{flags.step_tokens}`" in section("Tokens of a step")
