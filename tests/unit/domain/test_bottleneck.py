"""The decision table, on recordings of real engines and on made-up windows."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from optiinfra.domain.bottleneck import batch_ratio, diagnose
from optiinfra.domain.clues import CpuState, GpuState
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, FindingType
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds
from tests.unit.domain.made_up import UNKNOWN, recorded, signals_of
from tests.unit.engines.recorded import BATCH_BOUND, MEMORY_BOUND

ROOT = Path(__file__).parents[3]
SLOW_MACHINE = Objectives(time_to_first_token_p95=5.0, inter_token_latency_p95=0.5)


def limited(limit):
    return EngineSettings(engine=EngineKind.VLLM, batch_limit=float(limit), batch_limit_source="argument")


def judge(signals, settings=None, *, gpu_busy=0.5, objectives=None):
    return diagnose(
        signals,
        settings or limited(64),
        objectives or Objectives(),
        surroundings=Surroundings(gpu_utilization=gpu_busy),
    )


def around(signals, surroundings, settings=None):
    return diagnose(signals, settings or limited(64), Objectives(), surroundings=surroundings)


# ---- recorded -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu_busy", [0.5, UNKNOWN])
@pytest.mark.parametrize(
    ("settings", "source", "confidence"), [(limited(8), "argument", 0.9), (EngineSettings(), "inferred", 0.65)]
)
def test_a_recorded_full_batch_is_found_with_and_without_its_limit(settings, source, confidence, gpu_busy):
    found = judge(recorded(BATCH_BOUND, 80, 170), settings, objectives=SLOW_MACHINE, gpu_busy=gpu_busy)
    assert found.bottleneck is Bottleneck.BATCH
    assert found.batch_limit == 8.0
    assert found.batch_limit_source == source
    assert found.confidence == confidence


@pytest.mark.parametrize("last", range(90, 180, 10))
def test_a_recorded_full_batch_is_found_at_any_moment_of_it(last):
    assert judge(recorded(BATCH_BOUND, 80, last), limited(8)).bottleneck is Bottleneck.BATCH


@pytest.mark.parametrize("settings", [limited(32), EngineSettings()], ids=["limit known", "limit unknown"])
@pytest.mark.parametrize("last", [45, 50, 55, 60])
def test_recorded_shortage_of_kv_cache_is_found(last, settings):
    found = judge(recorded(MEMORY_BOUND, 36, last), settings, gpu_busy=UNKNOWN)
    assert found.bottleneck is Bottleneck.KV_CACHE
    assert found.confidence >= 0.85


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [(BATCH_BOUND, 5, 35), (BATCH_BOUND, 40, 75), (MEMORY_BOUND, 5, 33), (BATCH_BOUND, 231, 239)],
)
def test_recorded_low_load_and_drained_queue_are_no_bottleneck(name, first, last):
    found = judge(recorded(name, first, last), objectives=SLOW_MACHINE)
    assert found.bottleneck in {Bottleneck.HEALTHY, Bottleneck.IDLE}


def test_a_queue_that_drained_is_not_taken_for_slow_computation():
    # The first tokens of requests that waited long show when the queue is gone already.
    signals = signals_of(time_to_first_token_p95=75.0, queue_time_p95=70.0, waiting_max=16.0, waiting_share=0.1)
    found = judge(signals, gpu_busy=1.0)
    assert (found.bottleneck, found.reason) == (Bottleneck.HEALTHY, "QueueDrained")
    lagging = signals_of(time_to_first_token_p95=75.0, queue_time_p95=70.0)
    assert judge(lagging, gpu_busy=1.0).reason == "QueueDrained"
    prefill = signals_of(time_to_first_token_p95=75.0, queue_time_p95=0.1)
    assert judge(prefill, gpu_busy=1.0).bottleneck is Bottleneck.COMPUTE


# ---- the table ------------------------------------------------------------------------------------------------------


def queue(**changes):
    return signals_of(**{"running": 64.0, "waiting": 10.0, "waiting_max": 20.0, "waiting_share": 1.0} | changes)


def test_batch_at_its_limit_with_room_in_the_cache():
    found = judge(queue(running_per_replica_max=64.0, kv_cache_usage_max=0.6))
    assert found.bottleneck is Bottleneck.BATCH
    assert "64" in found.message
    assert found.finding().type is FindingType.BOTTLENECK
    assert found.finding().evidence == found.evidence


def test_full_cache_wins_over_full_batch():
    found = judge(queue(running_per_replica_max=64.0, kv_cache_usage=0.95, kv_cache_usage_max=0.95))
    assert found.bottleneck is Bottleneck.KV_CACHE


def test_preemptions_prove_a_full_cache_between_pages():
    found = judge(queue(running_per_replica_max=20.0, kv_cache_usage_max=0.8, preemption_rate=0.1))
    assert found.bottleneck is Bottleneck.KV_CACHE
    assert found.reason == "Preemptions"


def test_preemptions_without_a_queue_at_this_moment():
    found = judge(signals_of(preemption_rate=0.1, kv_cache_usage_max=0.97))
    assert found.bottleneck is Bottleneck.KV_CACHE


def test_a_queue_with_room_everywhere_is_blocked():
    found = judge(queue(running=10.0, running_per_replica_max=12.0, kv_cache_usage_max=0.3))
    assert found.bottleneck is Bottleneck.QUEUE
    assert found.reason == "Blocked"


def test_a_queue_that_no_capacity_cures():
    found = judge(queue(running_per_replica_max=64.0, kv_cache_usage_max=0.3, deferred=9.0))
    assert found.bottleneck is Bottleneck.QUEUE
    assert found.reason == "Deferred"


def test_one_full_replica_among_empty_ones_is_uneven_load():
    found = judge(
        queue(
            replicas_expected=4,
            replicas_reporting=4,
            running=80.0,
            running_per_replica_max=64.0,
            kv_cache_usage_max=0.3,
        )
    )
    assert found.bottleneck is Bottleneck.QUEUE
    assert found.reason == "UnevenLoad"


def test_a_passing_blip_is_no_queue():
    found = judge(signals_of(waiting=0.0, waiting_max=3.0, waiting_share=0.05))
    assert found.bottleneck is Bottleneck.HEALTHY


def test_a_request_that_is_just_taken_in_is_no_queue():
    assert judge(signals_of(running=60.0, waiting=1.0, waiting_share=0.1)).bottleneck is Bottleneck.HEALTHY


def test_a_queue_that_is_gone_limits_nobody_any_more():
    drained = {"running": 30.0, "running_per_replica_max": 64.0, "waiting": 0.0, "waiting_max": 80.0}
    found = judge(signals_of(replicas_expected=4, replicas_reporting=4, waiting_share=0.6, **drained))
    assert found.bottleneck is Bottleneck.HEALTHY


def test_no_work_in_the_history_is_idle_when_the_window_is_short():
    empty = {"running": 0.0, "running_max": 0.0, "busy_share": 0.0, "generation_token_rate": 0.0}
    signals = signals_of(window=60.0, time_to_first_token_p95=UNKNOWN, inter_token_latency_p95=UNKNOWN, **empty)
    found = diagnose(
        signals, limited(64), Objectives(), surroundings=Surroundings(gpu_utilization=0.0), quiet=Seconds(900.0)
    )
    assert found.bottleneck is Bottleneck.IDLE
    assert "15 min" in found.message


def test_the_gap_between_two_requests_is_not_idle_unless_that_is_asked_for():
    gap = signals_of(running=0.0, window=60.0)

    def quiet_for(seconds, pause=None):
        found = diagnose(
            gap, limited(64), Objectives(), surroundings=Surroundings(), quiet=Seconds(seconds), pause=pause
        )
        return found.bottleneck

    assert quiet_for(20.0) is Bottleneck.HEALTHY
    assert quiet_for(60.0) is Bottleneck.IDLE
    assert quiet_for(20.0, pause=Seconds(5.0)) is Bottleneck.IDLE


@pytest.mark.parametrize(
    ("verdict", "signals"),
    [
        (Bottleneck.COMPUTE, signals_of(inter_token_latency_p95=0.09)),
        (Bottleneck.KV_CACHE, queue(running_per_replica_max=20.0, kv_cache_usage=0.87, kv_cache_usage_max=0.88)),
    ],
)
def test_what_lies_at_the_edge_is_left_where_it_is(verdict, signals):
    def held(bottleneck):
        return diagnose(
            signals, limited(64), Objectives(), surroundings=Surroundings(gpu_sm_active=0.7), held=bottleneck
        ).bottleneck

    assert held(verdict) is verdict
    assert held(None) is not verdict
    assert held(Bottleneck.HEALTHY) is not verdict


def test_slow_tokens_on_busy_gpus_are_compute():
    found = judge(signals_of(inter_token_latency_p95=0.3), gpu_busy=0.97)
    assert found.bottleneck is Bottleneck.COMPUTE
    assert found.confidence <= 0.6


def test_slow_tokens_on_idle_gpus_point_at_the_host_unless_its_cpu_is_free():
    slow = signals_of(inter_token_latency_p95=0.3)
    found = judge(slow, gpu_busy=0.2)
    assert (found.bottleneck, found.reason) == (Bottleneck.HOST, "GPUsWait")
    free = Surroundings(gpu_utilization=0.2, container_cpu=0.3)
    assert around(slow, free).reason == "LatencyUnexplained"
    starved = around(slow, Surroundings(gpu_utilization=0.2, container_cpu=0.97))
    assert (starved.bottleneck, starved.reason) == (Bottleneck.HOST, "CPUStarvation")
    assert starved.confidence > found.confidence


def test_no_work_for_long_is_idle_and_for_short_is_not():
    empty = {
        "running": 0.0, "running_max": 0.0, "busy_share": 0.0, "generation_token_rate": 0.0,
        "time_to_first_token_p95": UNKNOWN, "inter_token_latency_p95": UNKNOWN,
    }  # fmt: skip
    assert judge(signals_of(window=900.0, **empty)).bottleneck is Bottleneck.IDLE
    short = judge(signals_of(window=60.0, **empty))
    assert (short.bottleneck, short.reason, short.idle_for_long) == (Bottleneck.IDLE, "NoWorkYet", False)
    assert short.confidence < judge(signals_of(window=200.0, **empty)).confidence
    assert judge(signals_of(window=900.0, **empty)).idle_for_long
    some_silent = signals_of(window=900.0, replicas_expected=3, replicas_reporting=2, **empty)
    assert judge(some_silent).bottleneck is Bottleneck.UNKNOWN


# ---- unknowns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"replicas_expected": 2, "replicas_reporting": 0}, "NoPages"),
        ({"replicas_expected": 0, "replicas_reporting": 0}, "NoReplicas"),
        ({"replicas_expected": 5, "replicas_reporting": 2}, "TooFewReplicasReport"),
        ({"waiting": UNKNOWN}, "QueueUnknown"),
        ({"running": UNKNOWN}, "QueueUnknown"),
        ({"waiting": 5.0, "kv_cache_usage": UNKNOWN, "kv_cache_usage_max": UNKNOWN}, "KVCacheUnknown"),
    ],
)
def test_what_is_not_known_blocks_the_verdict_and_is_named(changes, reason):
    found = judge(signals_of(**changes))
    assert (found.bottleneck, found.reason, found.confidence) == (Bottleneck.UNKNOWN, reason, 0.0)


def test_an_unknown_limit_that_was_exceeded_lately_is_not_what_limits():
    signals = queue(running=20.0, running_per_replica_max=50.0, kv_cache_usage_max=0.4)
    found = judge(signals, EngineSettings())
    assert (found.bottleneck, found.reason) == (Bottleneck.QUEUE, "Blocked")
    assert found.confidence < 0.5


def test_slow_tokens_without_measured_gpus_are_compute_and_less_sure():
    dark = Unknown(UnknownReason.UNREACHABLE, "no agent")
    slow = signals_of(inter_token_latency_p95=0.3)
    found = judge(slow, gpu_busy=dark)
    assert (found.bottleneck, found.reason) == (Bottleneck.COMPUTE, "DecodeBound")
    assert found.confidence < judge(slow, gpu_busy=0.97).confidence
    assert "nobody measures" in found.message


def test_a_latency_that_nobody_promised_is_missed_only_where_something_confirms_it():
    slow = signals_of(inter_token_latency_p95=0.3)

    def unpromised(surroundings):
        return diagnose(slow, limited(64), Objectives(), surroundings=surroundings, promised=False).bottleneck

    assert unpromised(Surroundings()) is Bottleneck.HEALTHY
    assert unpromised(Surroundings(gpu_sm_active=0.97)) is Bottleneck.COMPUTE
    assert unpromised(Surroundings(gpu_sm_active=0.1)) is Bottleneck.HOST


def test_one_page_gives_a_verdict_of_half_the_worth():
    signals = queue(running_per_replica_max=64.0, kv_cache_usage_max=0.5)
    assert judge(signals_of()).confidence > judge(signals_of(window=0.0)).confidence
    one = judge(queue(running_per_replica_max=64.0, kv_cache_usage_max=0.5, window=0.0))
    assert one.bottleneck is Bottleneck.BATCH
    assert one.confidence == judge(signals).confidence / 2


def test_missing_replicas_lower_the_confidence():
    changes = {"running_per_replica_max": 64.0, "kv_cache_usage_max": 0.5, "running": 192.0}
    whole = judge(queue(replicas_expected=4, replicas_reporting=4, **changes))
    part = judge(queue(replicas_expected=4, replicas_reporting=3, **changes))
    assert part.confidence < whole.confidence


def test_batch_ratio():
    signals = signals_of(running=48.0, replicas_expected=3, replicas_reporting=3)
    assert batch_ratio(signals, judge(signals, limited(32))) == 0.5
    assert isinstance(batch_ratio(signals, judge(signals, EngineSettings())), Unknown)


# ---- every class, and what agents measure ---------------------------------------------------------------------------

FULL = {"running_per_replica_max": 64.0, "kv_cache_usage_max": 0.5}
ROOM = {"running": 10.0, "running_per_replica_max": 20.0, "kv_cache_usage_max": 0.3}
SLOW = {"inter_token_latency_p95": 0.3}
WAITS = {"gpu_sm_active": 0.05, "container_cpu": 0.2}


def test_what_a_container_waits_for_is_evidence_with_its_place():
    place = "container vllm of pod vllm-1 on node n1"
    memory = {"memory_pressure": 0.3, "places": {"memory_pressure": place}}
    found = around(queue(**ROOM), Surroundings(gpu_sm_active=0.05, container_cpu=0.2, **memory))
    assert found.reason == "MemoryPressure"
    assert f"wait for memory in 30% of the time ({place})" in found.message
    (fact,) = [one for one in found.evidence if one.signal == "memory_pressure"]
    assert (fact.value, fact.unit, fact.source, fact.place) == (0.3, "ratio", "agent", place)


EMPTY = {"running": 0.0, "running_max": 0.0, "busy_share": 0.0, "generation_token_rate": 0.0}


@pytest.mark.parametrize(
    ("signals", "surroundings", "verdict", "reason"),
    [
        # a full batch, and what the GPUs say to it
        (queue(**FULL), {}, "Batch", "BatchLimitReached"),
        (queue(**FULL), {"gpu_utilization": 0.99}, "Batch", "BatchLimitReached"),
        (queue(**FULL), {"gpu_sm_active": 0.6}, "Batch", "BatchLimitReached"),
        (queue(**FULL), {"gpu_tensor_active": 0.7}, "Compute", "PrefillBound"),
        (queue(**FULL), {"gpu_sm_active": 0.97}, "Compute", "PrefillBound"),
        (queue(**FULL), {"gpu_dram_active": 0.9}, "Compute", "PrefillBound"),
        (queue(**FULL), {"gpu_sm_active": 0.95, "gpu_tensor_active": 0.1, "gpu_dram_active": 0.5}, "Batch", ""),
        (queue(**FULL), {"gpu_sm_active": 0.1, "container_cpu": 0.99}, "Host", "CPUStarvation"),
        # room in batch and cache
        (queue(**ROOM), {}, "Queue", "Blocked"),
        (queue(**ROOM), {"gpu_sm_active": 0.05}, "Host", "GPUsWait"),
        (queue(**ROOM), {"gpu_sm_active": 0.05, "cpu_throttled": 0.5}, "Host", "CPUStarvation"),
        (queue(**ROOM), {"cpu_pressure": 0.6}, "Host", "CPUSaturated"),
        (queue(**ROOM), {"gpu_sm_active": 0.05, "container_cpu": 0.2}, "Queue", "Blocked"),
        (queue(**ROOM), WAITS | {"memory_pressure": 0.2}, "Host", "MemoryPressure"),
        (queue(**ROOM), WAITS | {"io_pressure": 0.4}, "Host", "DiskPressure"),
        (queue(**ROOM), WAITS | {"container_cpu": 0.95, "memory_pressure": 0.2}, "Host", "CPUStarvation"),
        (queue(**ROOM), WAITS | {"memory_pressure": 0.02}, "Queue", "Blocked"),
        (queue(**ROOM), {"memory_pressure": 0.2}, "Host", "MemoryPressure"),
        (queue(**ROOM), {"gpu_tensor_active": 0.8, "memory_pressure": 0.9}, "Compute", "PrefillBound"),
        (queue(**ROOM), {"gpu_tensor_active": 0.8}, "Compute", "PrefillBound"),
        (queue(**ROOM), {"network_busy": 0.95}, "Network", "NetworkBusy"),
        (queue(**ROOM, step_tokens_mean=2000.0, prompt_computed_rate=9e4), {}, "Compute", "PrefillBound"),
        (queue(**ROOM, step_tokens_mean=250.0, prompt_computed_rate=9e4), {}, "Queue", "StepTokens"),
        (queue(**ROOM, rejection_rate=1.0), {}, "Queue", "Admission"),
        (queue(**ROOM, lora_waiting=3.0, lora_running=2.0, lora_limit=2.0), {}, "Queue", "LoraBudget"),
        (queue(**ROOM, deferred=9.0, external_hit_ratio=0.8), {}, "Network", "KVTransfer"),
        (queue(**ROOM, lmcache_healthy=0.0), {}, "Network", "RemoteCacheUnhealthy"),
        # the KV cache: short, reserved, or filled by prefixes that nobody needs
        (queue(kv_cache_usage=0.97, kv_cache_usage_max=0.99), {}, "KVCache", "KVCacheFull"),
        (
            queue(kv_cache_usage=UNKNOWN, kv_cache_usage_max=UNKNOWN, kv_cache_reserved=0.97),
            {},
            "KVCache",
            "KVReserved",
        ),
        (queue(**FULL | {"kv_cache_usage": 0.98, "kv_cache_usage_max": 0.98}, kv_cache_evictable=0.7), {}, "Batch", ""),
        (signals_of(kv_cache_usage=0.99, kv_cache_usage_max=0.99), {}, "Healthy", "ServedNearKVLimit"),
        # replicas
        (queue(**FULL), {"starting_replicas": 1.0}, "ColdStart", "ReplicasStarting"),
        (queue(**FULL, sleeping=1.0), {}, "ColdStart", "EngineAsleep"),
        (
            signals_of(replicas_expected=0, replicas_reporting=0),
            {"starting_replicas": 2.0},
            "ColdStart",
            "NoReplicaReady",
        ),
        # nobody waits
        (signals_of(), {}, "Healthy", "WithinObjectives"),
        (signals_of(**SLOW), {"gpu_sm_active": 0.95}, "Compute", "DecodeBound"),
        (signals_of(time_to_first_token_p95=5.0), {"gpu_sm_active": 0.95}, "Compute", "PrefillBound"),
        (signals_of(**SLOW), {"gpu_sm_active": 0.1}, "Host", "GPUsWait"),
        (signals_of(**SLOW), {"container_cpu": 0.98}, "Host", "CPUSaturated"),
        (signals_of(time_to_first_token_p95=5.0, lmcache_retrieve_p95=3.0), {}, "Network", "RemoteCacheSlow"),
        (signals_of(time_to_first_token_p95=0.5, lmcache_retrieve_p95=0.4), {}, "Healthy", "WithinObjectives"),
        (signals_of(rejection_rate=0.5), {}, "Queue", "Admission"),
        (signals_of(**EMPTY), {}, "Idle", "NoWork"),
    ],
)
def test_what_agents_measure_confirms_or_contradicts_the_pages(signals, surroundings, verdict, reason):
    found = around(signals, Surroundings(**surroundings))
    assert (str(found.bottleneck), found.reason if reason else "") == (verdict, reason)
    assert found.confidence > 0.0
    assert found.alternative is not None
    assert found.alternative.bottleneck is not found.bottleneck
    assert found.message
    assert found.message[0].isupper() or found.message[0].isdigit()


def test_a_busy_gpu_makes_idle_pages_doubtful():
    pages = signals_of(**EMPTY)
    assert around(pages, Surroundings(gpu_sm_active=0.8)).confidence < around(pages, Surroundings()).confidence


def test_a_measured_gpu_makes_surer_and_names_itself():
    busy = around(signals_of(**SLOW), Surroundings(gpu_sm_active=0.95))
    assert "multiprocessors 95%" in busy.message
    assert busy.confidence > around(signals_of(**SLOW), Surroundings()).confidence


def test_a_plateau_of_one_replica_is_the_limit_while_the_cache_has_room():
    assert judge(queue(**FULL), EngineSettings()).batch_limit == 64.0
    crowded = queue(running_per_replica_max=64.0, kv_cache_usage=0.95, kv_cache_usage_max=0.95)
    assert isinstance(judge(crowded, EngineSettings()).batch_limit, Unknown)


def test_running_requests_that_move_about_under_many_prompts_are_no_plateau():
    moving = {"running": 6.0, "running_mean": 5.5, "running_per_replica_max": 7.0, "waiting_share": 1.0}
    capped = queue(**moving, kv_cache_usage_max=0.1, step_tokens_mean=256.0, prompt_computed_rate=9e4)
    found = judge(capped, EngineSettings(), gpu_busy=UNKNOWN)
    assert (found.bottleneck, found.reason) == (Bottleneck.QUEUE, "StepTokens")


def test_every_reason_of_a_verdict_is_documented():
    domain = ROOT / "operator" / "optiinfra" / "domain"
    found = set()
    for name in ("bottleneck", "clues", "drafts", "waiting_causes", "serving_states", "diagnosis"):
        for node in ast.walk(ast.parse((domain / f"{name}.py").read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^[A-Z]+[a-z]*[A-Z][a-z]+[A-Za-z]*$", node.value))
    page = (ROOT / "docs" / "concepts.md").read_text()
    told = set(re.findall(r"`(\w+)`", page[page.index("## The bottlenecks") :]))
    assert {"NoWorkYet", "UnevenLoad", "KVReserved", "CPUStarvation", "RemoteCacheSlow"} <= found
    unknown = {
        "NoReplicas", "NoPages", "TooFewReplicasReport", "QueueUnknown", "KVCacheUnknown", "BatchLimitUnknown",
        "IdleUnsure", "LatencyUnexplained",
    }  # fmt: skip
    states = {str(one) for one in (*GpuState, *CpuState)}
    assert found - told - unknown - states == set()


numbers = some.one_of(some.just(UNKNOWN), some.floats(0.0, 2.0), some.floats(0.0, 500.0))
ratios = some.one_of(some.just(UNKNOWN), some.floats(0.0, 1.0))


@given(
    running=some.floats(0.0, 500.0),
    waiting=some.floats(0.0, 500.0),
    window=some.sampled_from([0.0, 5.0, 60.0, 900.0]),
    highest=numbers,
    share=ratios,
    usage=ratios,
    peak=ratios,
    reserved=ratios,
    preempted=numbers,
    first=numbers,
    between=numbers,
    steps=numbers,
    replicas=some.integers(1, 4),
    measured=some.fixed_dictionaries(
        dict.fromkeys(("gpu_utilization", "gpu_sm_active", "gpu_tensor_active", "container_cpu"), ratios)
    ),
    limit=some.one_of(some.just(UNKNOWN), some.integers(1, 512).map(float)),
    promised=some.booleans(),
)
def test_any_window_gives_a_verdict_that_can_be_argued_with(
    running, waiting, window, highest, share, usage, peak, reserved, preempted, first, between, steps, replicas,
    measured, limit, promised,
):  # fmt: skip
    signals = signals_of(
        running=running, waiting=waiting, window=window, running_per_replica_max=highest, waiting_share=share,
        kv_cache_usage=usage, kv_cache_usage_max=peak, kv_cache_reserved=reserved, preemption_rate=preempted,
        time_to_first_token_p95=first, inter_token_latency_p95=between, step_tokens_mean=steps,
        replicas_expected=replicas, replicas_reporting=replicas,
    )  # fmt: skip
    settings = EngineSettings(batch_limit=limit, batch_limit_source="" if isinstance(limit, Unknown) else "argument")
    found = diagnose(signals, settings, Objectives(), surroundings=Surroundings(**measured), promised=promised)
    assert 0.0 <= found.confidence <= 1.0
    assert found.evidence
    if found.bottleneck is Bottleneck.UNKNOWN:
        assert found.confidence == 0.0
        assert found.alternative is None
    else:
        assert found.alternative is not None
        assert found.alternative.bottleneck is not found.bottleneck
    if found.bottleneck is Bottleneck.KV_CACHE and found.reason != "Preemptions":
        tight = [value for value in (usage, peak, reserved) if not isinstance(value, Unknown)]
        assert max(tight) >= 0.75
