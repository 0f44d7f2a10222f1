"""A smaller share of a GPU is named where it is surely enough, by GPU model, and refused with a reason elsewhere."""

import contextlib
import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import gpu_models, gpu_share
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.gpu_share import ShareCase
from optiinfra.domain.gpu_use import DAY, GpuMoment, GpuUse, GpuUseHistory
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.mig_profiles import PROFILES, profiles_of
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts

GIB = 2.0**30
NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
NOW = UnixTime(1_800_000_000.0)


def container(gpus=1.0, resource="nvidia.com/gpu", name="app"):
    return ContainerFacts(name, NONE, NONE, NONE, NONE, gpus, gpu_resources=((resource, gpus),))


def use(p99=0.28, most=0.3, memory=20 * GIB, *, days=8.0, loads=2, kv=0.0, bound=False):
    return GpuUse(Seconds(days * DAY), 20_000, p99, most, bound, memory, kv, loads, 0.0)


def case(gpu="NVIDIA H100 80GB HBM3", **parts):
    given = {"container": container(), "use": use(), "replicas": 4} | parts
    return ShareCase(workload=WorkloadName("Deployment", "llama", "ml"), gpu=gpu_models.recognise(gpu), **given)


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [
        ("NVIDIA H100 80GB HBM3", "3g.40gb"),
        ("NVIDIA H100 PCIe", "3g.40gb"),
        ("NVIDIA H100 NVL", "3g.47gb"),
        ("NVIDIA A100-SXM4-80GB", "3g.40gb"),
        ("NVIDIA H200", "3g.71gb"),
        ("NVIDIA B200", "3g.90gb"),
    ],
)
def test_a_gpu_that_never_exceeds_30_percent_and_20_gib_gets_a_smaller_profile(gpu, profile):
    answer = gpu_share.advise(case(gpu, prices=PriceList(gpu_hour=2.0)))
    assert isinstance(answer, Proposal)
    assert answer.reason == "SmallerGPUShare"
    assert answer.proposed == f"1 x nvidia.com/mig-{profile}"
    assert answer.savings.gpus_freed == 2.0, "two of four replicas' GPUs"
    assert answer.savings.per_month == pytest.approx(2.0 * 2.0 * 730.0)
    limits = yaml.safe_load(answer.patch)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": None, f"nvidia.com/mig-{profile}": "1"}


@pytest.mark.parametrize(("gpu", "short"), [("NVIDIA A30", "memory"), ("NVIDIA A100-SXM4-40GB", "memory")])
def test_a_gpu_of_which_no_half_holds_20_gib_stays_whole(gpu, short):
    answer = gpu_share.advise(case(gpu))
    assert isinstance(answer, Refusal)
    assert answer.reason == "NoSmallerShare"
    assert short in answer.message


def test_little_use_gets_the_smallest_profile_that_has_enough():
    small = use(0.06, 0.1, 6 * GIB)
    answer = gpu_share.advise(case(use=small))
    assert isinstance(answer, Proposal)
    assert answer.proposed == "1 x nvidia.com/mig-1g.10gb"
    more_memory = gpu_share.advise(case(use=use(0.06, 0.1, 14 * GIB)))
    assert isinstance(more_memory, Proposal)
    assert more_memory.proposed == "1 x nvidia.com/mig-1g.20gb"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"use": use(0.6, 0.9)}, "NoSmallerShare"),
        ({"use": use(0.2, 0.9)}, "NoSmallerShare"),
        ({"use": Unknown(UnknownReason.TOO_FEW_SAMPLES, "3 of 24 hours")}, "TooFewSamples"),
        ({"use": use(memory=NONE)}, "NeedUnknown"),
        ({"gpu": "NVIDIA Nobody-knows"}, "GPUUnknown"),
        ({"gpu": "NVIDIA GB200"}, "GPUUnknown"),
        ({"gpu": "NVIDIA L4-SHARED"}, "GPUShared"),
        ({"container": container(2.0)}, "GPUCountUnknown"),
    ],
)
def test_what_is_not_sure_is_refused_with_its_reason(facts, reason):
    answer = gpu_share.advise(case(**({"gpu": "NVIDIA H100 80GB HBM3"} | facts)))
    assert isinstance(answer, Refusal)
    assert answer.reason == reason


def test_containers_without_whole_gpus_are_nobodys_business_here():
    assert gpu_share.advise(case(container=container(0.0, "cpu"))) is None
    assert gpu_share.advise(case(container=container(1.0, "nvidia.com/mig-1g.10gb"))) is None
    assert gpu_share.advise(case(container=container(1.0, "amd.com/gpu"))) is None


def test_a_gpu_without_mig_is_shared_with_its_caveats():
    answer = gpu_share.advise(case("NVIDIA L40S", use=use(0.2, 0.3, 10 * GIB)))
    assert isinstance(answer, Proposal)
    assert answer.reason == "ShareGPU"
    assert answer.proposed == "1 x nvidia.com/gpu.shared, 4 a GPU"
    assert "time-slicing isolates neither memory nor faults" in answer.risk
    full = gpu_share.advise(case("NVIDIA L4", use=use(0.2, 0.3, 20 * GIB)))
    assert isinstance(full, Refusal)


def test_utilisation_alone_only_bounds_activity_and_says_so():
    answer = gpu_share.advise(case("NVIDIA A100-SXM4-80GB", use=use(bound=True)))
    assert isinstance(answer, Proposal)
    assert "by utilisation" in answer.message
    assert answer.evidence[0].signal == "gpu_utilization"


def test_a_load_that_nobody_saw_costs_confidence():
    seen, unseen = (gpu_share.advise(case(use=use(loads=number))) for number in (1, 0))
    assert isinstance(seen, Proposal)
    assert isinstance(unseen, Proposal)
    assert unseen.confidence < seen.confidence
    assert "no load of it was seen" in unseen.risk


# engines

MODEL = ModelFacts(
    parameters=8e9,
    layers=32.0,
    kv_heads=8.0,
    head_size=128.0,
    weight_bytes_each=2.0,
    context_tokens=8192.0,
    attention=Attention.FULL,
)
ENGINE = EngineSettings(
    engine=EngineKind.VLLM,
    container="vllm",
    gpu_memory_share=0.9,
    tensor_parallel=1.0,
    quantization_known=True,
    kv_cache_dtype="auto",
)


def engine(**parts):
    facts = {
        "container": container(name="vllm"),
        "settings": ENGINE,
        "model": MODEL,
        "use": use(0.2, 0.3, 72 * GIB, kv=20_000.0),
        "inter_token_latency": 0.02,
        "first_token": 0.1,
        "pool_tokens": 400_000.0,
    }
    return gpu_share.advise(case(**(facts | parts)))


def test_memory_that_an_engine_takes_beforehand_says_nothing():
    answer = engine()
    assert isinstance(answer, Proposal)
    assert answer.proposed == "1 x nvidia.com/mig-3g.40gb"
    needed = next(one.value for one in answer.evidence if one.signal == "gpu_memory_needed")
    weights, kv = 16e9, 24_000.0 * 131_072.0
    rest = 72 * GIB - weights - 400_000.0 * 131_072.0
    assert needed == pytest.approx(weights + kv + rest)


@pytest.mark.parametrize(
    "missing",
    [
        {"model": ModelFacts()},
        {"pool_tokens": NONE},
        {"use": use(0.2, 0.3, 72 * GIB, kv=NONE)},
        {"settings": EngineSettings(engine=EngineKind.VLLM, container="vllm", tensor_parallel=1.0)},
    ],
)
def test_an_engine_whose_need_is_not_known_keeps_its_gpu(missing):
    answer = engine(**missing)
    assert isinstance(answer, Refusal)
    assert answer.reason == "NeedUnknown"


def test_facts_that_contradict_each_other_are_not_believed():
    answer = engine(use=use(0.2, 0.3, 20 * GIB, kv=10_000.0))
    assert isinstance(answer, Refusal)
    assert "not what they are taken for" in answer.message


def test_one_request_of_the_longest_context_has_to_fit():
    answer = engine(model=ModelFacts(**{f: getattr(MODEL, f) for f in MODEL.__slots__} | {"context_tokens": 131_072.0}))
    assert isinstance(answer, Refusal), "16 GiB of KV cache for one request"


@pytest.mark.parametrize(
    ("slow", "lacks"), [({"inter_token_latency": 0.06}, "bandwidth"), ({"first_token": 1.5}, "prompts")]
)
def test_a_share_that_would_break_a_promise_is_not_proposed(slow, lacks):
    answer = engine(**slow)
    assert isinstance(answer, Refusal)
    assert lacks in answer.message


def test_a_share_whose_latency_nobody_can_judge_is_not_proposed():
    answer = engine(inter_token_latency=NONE)
    assert isinstance(answer, Refusal)
    assert "no requests lately" in answer.message


def test_a_model_that_is_split_gets_no_share_and_fewer_gpus_only_beyond_the_split():
    split = EngineSettings(engine=EngineKind.VLLM, container="vllm", tensor_parallel=2.0)
    whole = engine(container=container(2.0, name="vllm"), settings=split)
    assert isinstance(whole, Refusal)
    assert whole.reason == "TensorParallel"
    spare = engine(container=container(4.0, name="vllm"), settings=split)
    assert isinstance(spare, Proposal)
    assert (spare.reason, spare.current, spare.proposed) == ("FewerGPUs", "4", "2")
    assert spare.savings.gpus_freed == 8.0
    untold = engine(
        container=container(4.0, name="vllm"), settings=EngineSettings(engine=EngineKind.VLLM, container="vllm")
    )
    assert isinstance(untold, Refusal)
    assert untold.reason == "GPUCountUnknown"


# profiles


def test_profiles_never_promise_more_than_the_guides_table():
    for name, profiles in PROFILES.items():
        gpu = next(one for one in gpu_models.GPUS if one.name == name)
        assert profiles_of(gpu) == profiles
        for profile in profiles:
            assert profile.usable_bytes <= gpu.memory_bytes * profile.memory * 1.01, (name, profile.name)
            assert profile.instances * profile.memory <= 1.0
            assert profile.instances * profile.compute <= 1.0 + 1e-9


# histories


def moment(sm=0.2, duty=0.5, memory=10 * GIB, *, loading=False):
    return GpuMoment(sm, duty, memory, loading=loading)


def history(hours=48, **parts):
    found = GpuUseHistory()
    for minute in range(0, hours * 60, 5):
        found.observe([moment(**parts)], time=UnixTime(NOW + minute * 60.0), kv_tokens=1000.0)
    return found


def test_a_history_sums_up_days():
    found = history().summary()
    assert isinstance(found, GpuUse)
    assert (found.activity_p99, found.activity_most, found.bound) == (0.22, 0.2, False)
    assert (found.memory_peak, found.kv_tokens_peak, found.loads) == (10 * GIB, 1000.0, 0)


def test_loads_count_for_memory_and_not_for_activity():
    kept = history()
    later = kept.last + 60.0
    kept.observe([moment(1.0, 1.0, 30 * GIB, loading=True)], time=UnixTime(later), kv_tokens=NONE)
    found = kept.summary()
    assert isinstance(found, GpuUse)
    assert (found.activity_most, found.memory_peak, found.loads) == (0.2, 30 * GIB, 1)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (GpuUseHistory(), UnknownReason.NOT_MEASURED),
        (history(5), UnknownReason.TOO_FEW_SAMPLES),
        (history(sm=NONE, duty=NONE), UnknownReason.NOT_MEASURED),
    ],
)
def test_use_that_was_hardly_seen_is_unknown(given, reason):
    found = given.summary()
    assert isinstance(found, Unknown)
    assert found.reason is reason


def test_moments_in_the_dark_make_use_unknown():
    kept = history()
    for minute in range(0, 24 * 60, 5):
        kept.observe([moment(NONE, NONE)], time=UnixTime(NOW + 49 * 3600.0 + minute * 60.0), kv_tokens=NONE)
    found = kept.summary()
    assert isinstance(found, Unknown)
    assert "33%" in found.detail


def test_without_multiprocessor_activity_utilisation_bounds_it():
    found = history(sm=NONE).summary()
    assert isinstance(found, GpuUse)
    assert found.bound
    assert found.activity_most == 0.5


def test_time_that_stands_or_runs_back_is_not_counted():
    kept = history()
    samples = kept.summary().samples
    assert not kept.observe([moment()], time=kept.last, kv_tokens=NONE)
    assert not kept.observe([moment()], time=UnixTime(kept.last - 60.0), kv_tokens=NONE)
    assert kept.summary().samples == samples


def test_a_checkpoint_comes_back_and_is_small():
    kept = history(24 * 20)
    state = kept.to_bytes()
    assert len(state) < 1024
    back = GpuUseHistory.from_bytes(state)
    assert back.to_bytes() == state
    found, before = back.summary(), kept.summary()
    assert isinstance(found, GpuUse)
    assert isinstance(before, GpuUse)
    assert dataclasses.replace(found, activity_most=before.activity_most) == before
    assert found.activity_most == pytest.approx(before.activity_most)


@given(st.binary(max_size=400))
def test_a_broken_checkpoint_is_an_error_of_its_own(data):
    with pytest.raises(InvalidCheckpointError):
        GpuUseHistory.from_bytes(data)


@given(st.data())
def test_a_damaged_checkpoint_never_raises_anything_else(data):
    state = bytearray(history(30).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        state[data.draw(st.integers(0, len(state) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidCheckpointError):
        GpuUseHistory.from_bytes(bytes(state)).summary()
