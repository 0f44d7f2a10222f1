"""The engines' names for their settings, by version, and how a change is written down."""

import pytest
import yaml

from optiinfra.domain.engine_flags import EngineFlags, flags_of, line, parse_version
from optiinfra.domain.manifests import instruction, patch, undo
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import settings as reader


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.32.0", (0, 32, 0)), ("v0.8.5.post1", (0, 8, 5)), ("2", (2,)), ("", ()), ("main-abc", ()), ("1.2rc1", (1, 2))],
)
def test_versions(text, expected):
    assert parse_version(text) == expected


def test_names_drift_with_versions():
    old, middle, new = (flags_of(EngineKind.VLLM, version) for version in ("0.6.3", "0.10.0", "0.32.0"))
    assert (old.chunked_prefill, middle.chunked_prefill) == ("--enable-chunked-prefill", "")
    assert (old.prefix_off, middle.prefix_off) == ("", "--no-enable-prefix-caching")
    assert (middle.kv_bytes, new.kv_bytes) == ("", "--kv-cache-memory-bytes")
    assert (middle.quantization_fp8, new.quantization_fp8) == ("fp8", "fp8_per_tensor")
    assert (old.batch_limit_default, new.batch_limit_default) == (
        "256",
        "1024 on GPUs of 70 GiB and more (not A100), else 256",
    )


def test_an_unknown_version_gets_words_that_hold_in_all():
    assert flags_of(EngineKind.VLLM).quantization_fp8 == "fp8"
    assert flags_of(Unknown(UnknownReason.NOT_MEASURED)) == EngineFlags()


STARTED = {
    EngineKind.VLLM: ("vllm", "serve", "model"),
    EngineKind.SGLANG: ("python3", "-m", "sglang.launch_server"),
    EngineKind.TGI: ("text-generation-launcher",),
    EngineKind.TRTLLM: ("trtllm-serve", "model"),
}


@pytest.mark.parametrize("engine", list(STARTED))
@pytest.mark.parametrize(
    ("flag", "setting", "value"),
    [
        ("batch_limit", "batch_limit", 128.0),
        ("step_tokens", "step_tokens", 4096.0),
        ("context", "context_tokens", 8192.0),
        ("memory_share", "gpu_memory_share", 0.5),
        ("tensor_parallel", "tensor_parallel", 2.0),
    ],
)
def test_what_is_advised_is_what_is_read(engine, flag, setting, value):
    """A line that is proposed has to be one that the reader of arguments finds again."""
    written = line(getattr(flags_of(engine), flag), f"{value:g}")
    unknown = Unknown(UnknownReason.NOT_MEASURED)
    container = ContainerFacts("engine", unknown, unknown, unknown, unknown, 1.0, (*STARTED[engine], written))
    found = reader.read((container,), None)
    assert found.engine is engine
    assert getattr(found, setting) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("--max-num-seqs", "128", "--max-num-seqs=128"),
        ("--enable-chunked-prefill", "", "--enable-chunked-prefill"),
        ("--enable-lmcache", "on", "--enable-lmcache"),
        ("MAX_BATCH_SIZE", "64", "MAX_BATCH_SIZE=64"),
        ("kv_cache_config.dtype", "fp8", "kv_cache_config.dtype: fp8"),
    ],
)
def test_a_setting_as_it_stands_in_a_manifest(name, value, expected):
    assert line(name, value) == expected
    assert expected in instruction(name, value, container="engine")


def test_a_variable_has_a_patch_and_an_argument_has_none():
    document = yaml.safe_load(patch("NIM_MAX_MODEL_LEN", "8192", container="nim"))
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert container == {"name": "nim", "env": [{"name": "NIM_MAX_MODEL_LEN", "value": "8192"}]}
    assert patch("--max-num-seqs", "128", container="vllm") == ""
    assert patch("NIM_MAX_MODEL_LEN", "8192", container="") == ""


def test_a_patch_cannot_be_broken_out_of():
    document = yaml.safe_load(patch("MAX_BATCH_SIZE", 'x"\n- name: evil', container="tgi"))
    assert document["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == 'x"\n- name: evil'
    assert patch("MAX_BATCH_SIZE", "1", container="tgi\n  evil: true") == ""


def test_undoing():
    assert undo("--max-num-seqs", "64", container="vllm").startswith("Put --max-num-seqs=64 back on container vllm")
    assert undo("--max-num-seqs", "not given", container="vllm").startswith("Remove --max-num-seqs from container vllm")
    assert undo("--max-num-seqs", "not given", container="").startswith("Put back what the engine's container had")
