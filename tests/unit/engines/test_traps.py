"""Every trap of the engines' pages that is known, one test each: first the format's, then the engines' own."""

import pytest

from optiinfra.domain.readings import Signal, Unknown, UnknownReason
from optiinfra.domain.signals import summarise
from optiinfra.engines import page
from optiinfra.engines.errors import PageError
from tests.unit.engines.recorded import BATCH_BOUND, raw, readings

S = Signal


def read(*lines):
    return page.read(("\n".join(lines) + "\n").encode(), at=0.0)


def histogram(name, *, buckets, total, labels=""):
    lines = [f'{name}_bucket{{{labels}le="{bound}"}} {count}' for bound, count in buckets]
    return (*lines, f"{name}_sum{{{labels}}} {total}", f"{name}_count{{{labels}}} {buckets[-1][1]}")


def summary(pages, *, window=900.0):
    return summarise(
        {"a": pages}, now=pages[-1].time, window=window, stale_after=60.0, replicas_expected=1
    )  # fmt: skip


# ---- 1. suffixes and types


def test_counters_carry_total_in_vllm_sglang_and_lmcache_and_never_in_tgi():
    assert S.PROMPT_TOKENS not in read("vllm:num_requests_running 1", "vllm:prompt_tokens 5").counters
    assert S.PROMPT_TOKENS not in read("sglang:num_running_reqs 1", "sglang:prompt_tokens 5").counters
    assert S.LMCACHE_HIT_TOKENS not in read("vllm:num_requests_running 1", "lmcache:num_hit_tokens 5").counters
    assert S.REQUESTS_FINISHED not in read("tgi_queue_size 1", "tgi_request_success_total 5").counters
    assert read("tgi_queue_size 1", "tgi_request_success 5").counters[S.REQUESTS_FINISHED] == 5.0


def test_iteration_tokens_total_is_a_histogram_of_steps_despite_its_name():
    lines = histogram("vllm:iteration_tokens_total", buckets=(("8.0", 3), ("+Inf", 4)), total=40)
    reading = read("vllm:num_requests_running 1", *lines)
    assert reading.counters == {}
    assert reading.histograms[S.STEP_TOKENS].count == 4.0


def test_a_summary_where_a_histogram_is_documented_is_not_read_as_one():
    reading = read(
        "tgi_queue_size 1", 'tgi_request_skipped_tokens{quantile="0.5"} 3', "tgi_request_skipped_tokens_sum 30",
        "tgi_request_skipped_tokens_count 10", 'tgi_request_duration{quantile="0.5"} 3', "tgi_request_duration_sum 9",
        "tgi_request_duration_count 3",
    )  # fmt: skip
    assert reading.histograms == {}
    assert reading.counters == {}


# ---- 2. creation times


def test_created_times_of_1_8e9_are_in_no_sum_and_no_rate():
    for reading in readings(BATCH_BOUND)[::40]:
        assert max(reading.counters.values()) < 1e6
    signals = summary(readings(BATCH_BOUND)[80:170])
    assert signals.prompt_token_rate < 1000.0


# ---- 3. names


def test_vllm_names_have_a_colon_and_ray_prefixes_them():
    with pytest.raises(PageError, match="no known engine"):
        read("vllm_num_requests_running 5")
    for prefix in ("vllm:", "ray_vllm:", "ray_vllm_"):
        assert read(f"{prefix}num_requests_running 5").gauges[S.REQUESTS_RUNNING] == 5.0


# ---- 4. labels that are not there


def test_cache_config_info_has_no_model_and_rejections_have_no_engine():
    reading = page.read(raw(BATCH_BOUND)[0][0], at=0.0)
    assert "model_name" not in reading.facts
    assert reading.gauges[S.KV_CACHE_CAPACITY_TOKENS] == 3200.0
    assert reading.counters[S.REQUESTS_REJECTED] == 0.0
    rejected = read(
        'vllm:num_requests_running{engine="0"} 1', 'vllm:num_requests_running{engine="1"} 1',
        'vllm:admission_rejections_total{reason="max_num_queued_reqs"} 2',
        'vllm:admission_rejections_total{reason="max_num_queued_tokens"} 3',
    )  # fmt: skip
    assert rejected.counters[S.REQUESTS_REJECTED] == 5.0


# ---- 5. ranks


@pytest.mark.parametrize("rank", ["tp_rank", "pp_rank", "moe_ep_rank", "ep_rank", "pid"])
def test_ranks_of_sglang_say_the_same_requests_again(rank):
    reading = read(
        *(f'sglang:num_running_reqs{{{rank}="{number}"}} 7' for number in range(4)),
        *(f'sglang:num_retracted_requests_total{{{rank}="{number}"}} 3' for number in range(4)),
        *(f'sglang:max_total_num_tokens{{{rank}="{number}"}} 1000' for number in range(4)),
    )
    assert reading.gauges[S.REQUESTS_RUNNING] == 7.0
    assert reading.counters[S.PREEMPTIONS] == 3.0
    assert reading.gauges[S.KV_CACHE_CAPACITY_TOKENS] == 1000.0
    assert reading.members == ()


# ---- 6. TGI


def test_tgi_has_no_model_and_bounds_that_follow_its_limits():
    def tgi(time, bounds):
        buckets = [(bound, (index + 1) * 10) for index, bound in enumerate(bounds)] + [("+Inf", 10 * len(bounds))]
        lines = histogram("tgi_request_input_length", buckets=buckets, total=1000)
        return page.read(("\n".join(("tgi_queue_size 0", *lines)) + "\n").encode(), at=time)

    pages = [tgi(0.0, ("10", "20")), tgi(10.0, ("40", "80"))]
    assert pages[0].model == ""
    # Other limits are another process: all of it was observed since.
    assert summary(pages).prompt_tokens_mean == pytest.approx(50.0)


# ---- 7. histograms lag


def test_while_requests_wait_nobody_has_a_queue_time_yet_and_that_is_not_zero():
    pages = readings(BATCH_BOUND)
    start = next(index for index, one in enumerate(pages) if one.gauges[S.REQUESTS_WAITING] > 5)
    signals = summary(pages[start : start + 3])
    assert signals.waiting > 5
    assert isinstance(signals.queue_time_p95, Unknown)
    assert signals.queue_time_p95.reason is UnknownReason.TOO_FEW_SAMPLES


def test_waits_show_up_a_generation_later_in_the_window_in_which_they_were_told():
    pages = readings(BATCH_BOUND)
    drained = next(index for index in range(len(pages) - 1, 0, -1) if pages[index].gauges[S.REQUESTS_WAITING] > 0)
    signals = summary(pages[drained:])
    assert signals.waiting == 0.0
    assert signals.time_to_first_token_p95 > 30.0


# ---- 8. facts are text


def test_unset_facts_read_none_and_a_blocks_override_makes_their_memory_wrong():
    facts = page.read(raw(BATCH_BOUND)[0][0], at=0.0).facts
    assert "None" not in facts.values()
    assert (facts["kv_cache_memory_bytes"], facts["kv_cache_size_tokens"]) == ("1073741824", "3200")


# ---- 9. several API servers


def test_multiprocess_mode_drops_process_families_which_are_then_unknown():
    alone = readings(BATCH_BOUND)[80:90]
    assert summary(alone).process_cpu_cores < 0.1
    several = [
        page.read(content.replace(b"process_cpu_seconds_total", b"process_gone_seconds_total"), at=at)
        for content, at in raw(BATCH_BOUND)[80:90]
    ]
    assert isinstance(summary(several).process_cpu_cores, Unknown)


def test_gauges_by_process_are_copies_and_never_added():
    reading = read('vllm:num_requests_running{pid="1"} 6', 'vllm:num_requests_running{pid="2"} 5')
    assert reading.gauges[S.REQUESTS_RUNNING] == 6.0


# ---- 10. nothing is not zero


def test_a_missing_family_is_absent_and_makes_its_signals_unknown():
    pages = [read("vllm:num_requests_running 0"), read("vllm:num_requests_running 0")]
    signals = summary(pages)
    assert signals.running == 0.0
    for name in ("waiting", "kv_cache_usage", "preemption_rate", "request_rate", "prefix_hit_ratio", "failure_rate"):
        assert isinstance(getattr(signals, name), Unknown), name


def test_nan_when_idle_is_unknown_and_the_next_number_counts():
    idle = read("vllm:num_requests_running 0", "vllm:kv_cache_usage_perc NaN")
    assert isinstance(summary([idle]).kv_cache_usage, Unknown)
    assert summary([idle, read("vllm:num_requests_running 1", "vllm:kv_cache_usage_perc 0.1")]).kv_cache_usage == 0.1


# ---- of the engines' own


def test_a_reason_that_never_happened_is_zero_only_where_the_engine_knows_the_reason():
    # V0 creates the series of a reason with its first request, and has no reason "error".
    v0 = read("vllm:num_requests_running 1", 'vllm:request_success_total{finished_reason="stop"} 9')
    assert v0.counters[S.REQUESTS_ABORTED] == 0.0
    assert v0.counters[S.REQUESTS_FINISHED_BY_LENGTH] == 0.0
    assert S.REQUESTS_FAILED not in v0.counters


def test_adapters_are_those_of_the_newest_combination():
    reading = read(
        "vllm:num_requests_running 1",
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e9',
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b,c",waiting_lora_adapters="d,"} 1.8e9',
    )
    assert reading.gauges[S.LORA_RUNNING] == 3.0
    assert reading.gauges[S.LORA_WAITING] == 1.0
    assert reading.gauges[S.LORA_LIMIT] == 4.0


@pytest.mark.parametrize(("awake", "sleeping"), [("1", 0.0), ("0", 1.0)])
def test_an_engine_that_is_not_awake_sleeps(awake, sleeping):
    reading = read(
        f'vllm:engine_sleep_state{{sleep_state="awake"}} {awake}',
        'vllm:engine_sleep_state{sleep_state="weights_offloaded"} 0',
    )
    assert reading.gauges[S.SLEEPING] == sleeping


def test_prompt_tokens_that_were_computed_are_told_apart_from_cached_ones():
    reading = readings(BATCH_BOUND)[120]
    assert reading.counters[S.PROMPT_TOKENS_COMPUTED] + reading.counters[S.PREFIX_CACHE_HITS] == pytest.approx(
        reading.counters[S.PROMPT_TOKENS]
    )


def test_sglang_tokens_of_the_running_batch_before_those_of_ended_requests():
    old = ("sglang:num_running_reqs 1", "sglang:generation_tokens_total 100", "sglang:prompt_tokens_total 50")
    assert read(*old).counters[S.GENERATION_TOKENS] == 100.0
    reading = read(
        *old, 'sglang:realtime_tokens_total{mode="decode",tp_rank="0"} 130',
        'sglang:realtime_tokens_total{mode="decode",tp_rank="1"} 130',
        'sglang:realtime_tokens_total{mode="prefill_compute",tp_rank="0"} 9',
        'sglang:prefill_effective_tokens_total{mode="input"} 60',
        'sglang:prefill_effective_tokens_total{mode="device_hit"} 30',
        'sglang:prefill_effective_tokens_total{mode="host_hit"} 10',
    )  # fmt: skip
    assert reading.counters[S.GENERATION_TOKENS] == 130.0
    assert reading.counters[S.PROMPT_TOKENS] == 100.0
    assert reading.counters[S.PROMPT_TOKENS_COMPUTED] == 60.0
    assert (reading.counters[S.PREFIX_CACHE_HITS], reading.counters[S.PREFIX_CACHE_QUERIES]) == (40.0, 100.0)


def test_sglang_queues_beside_the_queue_wait_too_and_only_one_of_them_for_capacity():
    reading = read(
        "sglang:num_running_reqs 1", "sglang:num_queue_reqs 1", "sglang:num_grammar_queue_reqs 2",
        "sglang:num_paused_reqs 4", "sglang:num_prefill_bootstrap_queue_reqs 8",
        "sglang:num_decode_transfer_queue_reqs 16", "sglang:num_decode_prealloc_queue_reqs 32",
    )  # fmt: skip
    assert reading.gauges[S.REQUESTS_WAITING] == 63.0
    assert reading.gauges[S.REQUESTS_DEFERRED] == 30.0


def test_sglang_tells_cached_prefixes_that_nobody_uses():
    reading = read(
        "sglang:num_running_reqs 0", "sglang:token_usage 0.1", "sglang:num_used_tokens 100",
        "sglang:max_total_num_tokens 1000", "sglang:kv_evictable_tokens 850",
    )  # fmt: skip
    assert reading.gauges[S.KV_CACHE_USAGE] == 0.1
    assert reading.gauges[S.KV_CACHE_EVICTABLE] == 0.85


def test_tgi_tells_apart_how_requests_ended_and_who_never_came_in():
    lines = ("tgi_queue_size 1", "tgi_request_success 90", 'tgi_request_failure{err="generation"} 3')
    reading = read(*lines, 'tgi_request_failure{err="overloaded"} 5', 'tgi_request_failure{err="validation"} 7')
    assert reading.counters[S.REQUESTS_FINISHED] == 93.0
    assert reading.counters[S.REQUESTS_FAILED] == 3.0
    assert reading.counters[S.REQUESTS_REJECTED] == 5.0
    # A counter that nothing has happened to is not exported.
    assert read(*lines[:2]).counters[S.REQUESTS_FAILED] == 0.0
    assert S.REQUESTS_FAILED not in read(lines[0]).counters


def test_tgi_is_busy_for_as_long_as_its_batches_take():
    reading = read(
        "tgi_queue_size 1", 'tgi_batch_inference_duration_sum{method="prefill"} 2.5',
        'tgi_batch_inference_duration_sum{method="decode"} 40.5',
    )  # fmt: skip
    assert reading.counters[S.BUSY_SECONDS] == 43.0


def test_tgi_reserves_tokens_and_v2_does_not_say_of_how_many():
    v3 = read("tgi_queue_size 1", "tgi_batch_current_max_tokens 30", "tgi_batch_max_total_tokens 40")
    assert v3.gauges[S.KV_CACHE_RESERVED] == 0.75
    assert v3.version == "v3"
    v2 = read("tgi_queue_size 1", "tgi_batch_current_max_tokens 30")
    assert S.KV_CACHE_RESERVED not in v2.gauges
    assert v2.version == ""


def test_triton_counts_only_the_requests_of_its_language_model():
    reading = read(
        'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4',
        'nv_inference_request_success{model="ensemble",version="1"} 100',
        'nv_inference_request_success{model="preprocessing",version="1"} 100',
        'nv_inference_request_success{model="tensorrt_llm",version="1"} 98',
        'nv_inference_request_failure{model="tensorrt_llm",reason="OTHER",version="1"} 2',
        *histogram(
            "nv_inference_first_response_histogram_ms", buckets=(("100", 3), ("500", 9), ("+Inf", 10)), total=3000,
            labels='model="tensorrt_llm",version="1",',
        ),
    )  # fmt: skip
    assert reading.counters[S.REQUESTS_FINISHED] == 100.0
    assert reading.counters[S.REQUESTS_FAILED] == 2.0
    first = reading.histograms[S.TIME_TO_FIRST_TOKEN]
    assert first.bounds[:2] == pytest.approx((0.1, 0.5))
    assert first.total == pytest.approx(3.0)


def test_trtllm_serve_counts_completed_requests_even_without_performance_metrics():
    lines = ("trtllm_num_requests_running 1", "trtllm_num_requests_completed_total 50")
    assert read(*lines).counters[S.REQUESTS_FINISHED] == 50.0
    reading = read(*lines, "trtllm_prompt_tokens_total 100", "trtllm_prompt_cached_tokens_total 40")
    assert reading.counters[S.PROMPT_TOKENS_COMPUTED] == 60.0
    assert reading.counters[S.PREFIX_CACHE_QUERIES] == 100.0
    assert read("trtllm:num_requests_running 3").gauges[S.REQUESTS_RUNNING] == 3.0


def test_nim_counts_failures_that_vllm_does_not():
    reading = read(
        "num_requests_running 1", 'request_finish_total{finished_reason="length"} 5', "request_success_total 5",
        "request_failure_total 2",
    )  # fmt: skip
    assert reading.counters[S.REQUESTS_FINISHED] == 5.0
    assert reading.counters[S.REQUESTS_FINISHED_BY_LENGTH] == 5.0
    assert reading.counters[S.REQUESTS_FAILED] == 2.0


def test_lmcache_beside_the_engine_as_a_server_of_its_own():
    reading = read(
        "vllm:num_requests_running 1", 'lmcache_mp_lookup_requested_tokens_total{model_name="m"} 2560',
        'lmcache_mp_lookup_hit_tokens_total{model_name="m"} 1280', "lmcache_mp_l1_memory_usage_bytes 3e9",
        'lmcache_mp_l2_usage_bytes{l2_name="fs"} 5e9', 'lmcache_mp_l2_usage_bytes{l2_name="resp"} 7e9',
        "lmcache_mp_l1_evicted_keys_total 6", 'lmcache_mp_l2_load_completed_total{l2_name="resp"} 4',
        *histogram("lmcache_mp_l1_chunk_lifetime_seconds", buckets=(("60", 1), ("600", 3), ("+Inf", 3)), total=900),
    )  # fmt: skip
    assert reading.counters[S.LMCACHE_REQUESTED_TOKENS] == 2560.0
    assert reading.counters[S.LMCACHE_HIT_TOKENS] == 1280.0
    assert reading.gauges[S.LMCACHE_LOCAL_USAGE_BYTES] == 3e9
    assert reading.gauges[S.LMCACHE_DISK_USAGE_BYTES] == 5e9
    assert reading.gauges[S.LMCACHE_REMOTE_USAGE_BYTES] == 7e9
    assert reading.counters[S.LMCACHE_EVICTIONS] == 6.0
    assert reading.counters[S.LMCACHE_REMOTE_READS] == 4.0
    # Seconds there, minutes here, as on the engine's page.
    assert reading.histograms[S.LMCACHE_LIFESPAN].bounds[:2] == pytest.approx((1.0, 10.0))
    assert S.LMCACHE_STORED_TOKENS not in reading.counters
