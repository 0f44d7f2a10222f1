"""Reading pages: every trap of the format, every rename, every engine, and what is refused."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optiinfra.domain.readings import EngineKind, Signal, Unknown, UnknownReason
from optiinfra.engines import page
from optiinfra.engines.errors import PageError
from optiinfra.engines.text import MAX_BYTES, MAX_LINES
from tests.unit.engines.recorded import BATCH_BOUND, MEMORY_BOUND, lmcache_page, raw, readings, written


def read(text):
    return page.read(text.encode(), at=1000.0)


def vllm(*lines):
    return read("\n".join(("vllm:num_requests_running 1", *lines, "")))


# ---- recorded pages -------------------------------------------------------------------------------------------------


def test_a_recorded_vllm_page_is_read_whole():
    reading = readings(MEMORY_BOUND)[-1]
    assert reading.engine is EngineKind.VLLM
    assert reading.model == "tiny-llama"
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 3.0
    assert reading.gauges[Signal.REQUESTS_WAITING] == 16.0
    assert reading.gauges[Signal.REQUESTS_DEFERRED] == 0.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.703125
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 2080.0
    assert reading.counters[Signal.PREEMPTIONS] == 1.0
    assert reading.counters[Signal.REQUESTS_FINISHED] == 7.0
    assert reading.counters[Signal.PREFIX_CACHE_QUERIES] == 4465.0
    assert reading.counters[Signal.PREFIX_CACHE_HITS] == 1760.0
    assert reading.histograms[Signal.TIME_TO_FIRST_TOKEN].count == 14.0
    assert reading.histograms[Signal.TIME_TO_FIRST_TOKEN].total == 30.06186819076538
    assert reading.facts["num_gpu_blocks_override"] == "65"
    assert "None" not in reading.facts.values()


@pytest.mark.parametrize("name", [BATCH_BOUND, MEMORY_BOUND])
def test_the_fast_parser_agrees_with_prometheus_client_on_every_tenth_recorded_page(name):
    for content, time in raw(name)[::10]:
        reading = page.read(content, at=time)
        expected = {}
        buckets = {}
        for family in text_string_to_metric_families(content.decode()):
            for sample in family.samples:
                expected[sample.name] = expected.get(sample.name, 0.0) + sample.value
                if sample.name.endswith("_bucket"):
                    buckets.setdefault(sample.name, []).append((float(sample.labels["le"]), sample.value))
        assert reading.gauges[Signal.REQUESTS_RUNNING] == expected["vllm:num_requests_running"]
        assert reading.counters[Signal.REQUESTS_FINISHED] == expected["vllm:request_success_total"]
        for signal, base in (
            (Signal.TIME_TO_FIRST_TOKEN, "vllm:time_to_first_token_seconds"),
            (Signal.INTER_TOKEN_LATENCY, "vllm:inter_token_latency_seconds"),
            (Signal.QUEUE_TIME, "vllm:request_queue_time_seconds"),
            (Signal.REQUEST_GENERATION_TOKENS, "vllm:request_generation_tokens"),
        ):
            if f"{base}_count" not in expected:
                assert signal not in reading.histograms
                continue
            histogram = reading.histograms[signal]
            assert list(zip(histogram.bounds, histogram.cumulative, strict=True)) == buckets[f"{base}_bucket"]
            assert histogram.total == expected[f"{base}_sum"]
            assert histogram.count == expected[f"{base}_count"]


def test_lmcache_on_an_engines_page_is_a_guest():
    reading = page.read(raw(BATCH_BOUND)[100][0] + lmcache_page(), at=1.0)
    assert reading.engine is EngineKind.VLLM
    assert reading.counters[Signal.LMCACHE_REQUESTED_TOKENS] == 2560.0
    assert reading.counters[Signal.LMCACHE_HIT_TOKENS] == 1280.0
    assert reading.gauges[Signal.LMCACHE_LOCAL_USAGE_BYTES] == 3.2e9
    assert reading.counters[Signal.LMCACHE_EVICTIONS] == 0.0


def test_lmcache_alone_is_no_engine():
    with pytest.raises(PageError, match="engine's own page"):
        page.read(lmcache_page(), at=1.0)


# ---- engines, by hand-written pages ---------------------------------------------------------------------------------


def test_sglang_ranks_are_never_summed_and_data_parallel_ranks_are():
    reading = written("sglang.txt")
    assert reading.engine is EngineKind.SGLANG
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 17.0
    # Three in the queue, two that wait for a grammar beside it: no capacity would start these.
    assert reading.gauges[Signal.REQUESTS_WAITING] == 5.0
    assert reading.gauges[Signal.REQUESTS_DEFERRED] == 2.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.81
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 20000.0
    assert reading.facts["page_size"] == "1"


def test_sglang_counts_retracted_requests_not_the_gauge_of_nearly_the_same_name():
    assert written("sglang.txt").counters[Signal.PREEMPTIONS] == 48.0


def test_sglang_prefix_hits_come_from_token_counters_over_all_tiers():
    reading = written("sglang.txt")
    assert reading.counters[Signal.PREFIX_CACHE_HITS] == 1000.0
    assert reading.counters[Signal.PREFIX_CACHE_QUERIES] == 4000.0
    assert Signal.PREFIX_CACHE_HIT_RATIO not in reading.gauges


def test_sglang_usage_that_contradicts_its_own_tokens_is_not_believed():
    lines = (
        'sglang:num_running_reqs{tp_rank="0"} 0',
        'sglang:token_usage{tp_rank="0"} 0.25',
        'sglang:num_used_tokens{tp_rank="0"} 37',
        'sglang:max_total_num_tokens{tp_rank="0"} 430839',
        "",
    )
    assert Signal.KV_CACHE_USAGE not in read("\n".join(lines)).gauges
    # A sliding-window pool may be the tighter one, and then the usage is right.
    with_pool = (*lines[:-1], 'sglang:swa_token_usage{tp_rank="0"} 0.25', "")
    assert read("\n".join(with_pool)).gauges[Signal.KV_CACHE_USAGE] == 0.25


def test_sglang_overload_as_documented():
    reading = read(
        "sglang:num_running_reqs 162\nsglang:num_queue_reqs 2826\nsglang:token_usage 0.28\n"
        "sglang:num_used_tokens 123859\nsglang:max_total_num_tokens 454400\n"
    )
    assert reading.gauges[Signal.REQUESTS_WAITING] == 2826.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.28


def test_tgi_without_labels_without_total_and_with_derived_signals():
    reading = written("tgi.txt")
    assert reading.engine is EngineKind.TGI
    assert reading.model == ""
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 12.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.75
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 20000.0
    assert reading.counters[Signal.REQUESTS_FINISHED] == 40.0
    assert reading.counters[Signal.PROMPT_TOKENS] == 6000.0
    assert reading.counters[Signal.GENERATION_TOKENS] == 4000.0
    assert reading.histograms[Signal.INTER_TOKEN_LATENCY].count == 40.0
    assert Signal.TIME_TO_FIRST_TOKEN not in reading.histograms
    assert Signal.PREEMPTIONS not in reading.counters


def test_tgi_before_v3_has_no_kv_usage_rather_than_zero():
    reading = read("tgi_queue_size 0\ntgi_batch_current_size 0\ntgi_batch_current_max_tokens 0\n")
    assert Signal.KV_CACHE_USAGE not in reading.gauges


def test_triton_tells_requests_apart_by_label():
    reading = written("triton.txt")
    assert reading.engine is EngineKind.TRITON
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 4.0
    assert reading.gauges[Signal.REQUESTS_WAITING] == 3.0
    assert reading.gauges[Signal.BATCH_LIMIT] == 512.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.25
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 6400.0


def test_trtllm_serve():
    reading = written("trtllm.txt")
    assert reading.engine is EngineKind.TRTLLM
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 32000.0
    assert reading.gauges[Signal.PREFIX_CACHE_HIT_RATIO] == 0.2
    assert reading.histograms[Signal.INTER_TOKEN_LATENCY].count == 9.0


def test_nim_has_no_prefix_and_says_its_batch_limit():
    reading = written("nim.txt")
    assert reading.engine is EngineKind.NIM
    assert reading.model == "meta/llama-3.1-8b-instruct"
    assert reading.gauges[Signal.BATCH_LIMIT] == 64.0
    assert reading.counters[Signal.REQUESTS_FINISHED] == 5.0


# ---- renames --------------------------------------------------------------------------------------------------------


def test_vllm_v0_names():
    reading = written("vllm_v0.txt")
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.3
    assert reading.counters[Signal.REQUESTS_FINISHED] == 7.0
    assert reading.counters[Signal.PREEMPTIONS] == 4.0
    assert reading.histograms[Signal.INTER_TOKEN_LATENCY].count == 100.0
    assert reading.histograms[Signal.QUEUE_TIME].count == 7.0
    # Without kv_cache_size_tokens: blocks times block size.
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 16000.0
    # -1 means unused, and an unused ratio is not a ratio.
    assert Signal.PREFIX_CACHE_HIT_RATIO not in reading.gauges


@pytest.mark.parametrize(
    ("old", "new", "signal"),
    [
        ("gpu_cache_usage_perc", "kv_cache_usage_perc", Signal.KV_CACHE_USAGE),
        ("gpu_prefix_cache_queries_total", "prefix_cache_queries_total", Signal.PREFIX_CACHE_QUERIES),
        ("gpu_prefix_cache_hits_total", "prefix_cache_hits_total", Signal.PREFIX_CACHE_HITS),
    ],
)
def test_a_renamed_family_is_read_by_either_name_and_the_new_one_wins(old, new, signal):
    def value(*lines):
        reading = vllm(*lines)
        return reading.gauges.get(signal, reading.counters.get(signal))

    assert value(f"vllm:{old} 0.25") == 0.25
    assert value(f"vllm:{new} 0.5") == 0.5
    assert value(f"vllm:{old} 0.25", f"vllm:{new} 0.5") == 0.5
    assert value(f"vllm:{new} NaN", f"vllm:{old} 0.25") is None


@pytest.mark.parametrize(
    ("old", "new", "signal"),
    [
        ("time_per_output_token_seconds", "inter_token_latency_seconds", Signal.INTER_TOKEN_LATENCY),
        ("time_in_queue_requests", "request_queue_time_seconds", Signal.QUEUE_TIME),
    ],
)
def test_a_renamed_histogram_is_read_by_either_name_and_the_new_one_wins(old, new, signal):
    def lines(name, count):
        base = f"vllm:{name}"
        return (f'{base}_bucket{{le="+Inf"}} {count}', f"{base}_count {count}", f"{base}_sum 1")

    assert vllm(*lines(old, 3)).histograms[signal].count == 3
    assert vllm(*lines(new, 4)).histograms[signal].count == 4
    assert vllm(*lines(old, 3), *lines(new, 4)).histograms[signal].count == 4


@pytest.mark.parametrize("prefix", ["ray_vllm:", "ray_vllm_"])
def test_under_ray_names_are_prefixed_and_workers_add_up(prefix):
    reading = read(
        f'{prefix}num_requests_running{{WorkerId="a",model_name="m"}} 2\n'
        f'{prefix}num_requests_running{{WorkerId="b",model_name="m"}} 3\n'
        f'{prefix}prompt_tokens{{WorkerId="a",model_name="m"}} 58\n'
        f'{prefix}prompt_tokens_total{{WorkerId="a",model_name="m"}} 58\n'
    )
    assert reading.engine is EngineKind.VLLM
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 5.0
    assert reading.counters[Signal.PROMPT_TOKENS] == 58.0


# ---- traps ----------------------------------------------------------------------------------------------------------


def test_created_times_are_never_counted():
    reading = vllm(
        'vllm:prompt_tokens_total{engine="0"} 10',
        'vllm:prompt_tokens_created{engine="0"} 1.795e9',
        'vllm:time_to_first_token_seconds_bucket{le="+Inf"} 2',
        "vllm:time_to_first_token_seconds_count 2",
        "vllm:time_to_first_token_seconds_sum 3",
        "vllm:time_to_first_token_seconds_created 1.795e9",
    )
    assert reading.counters[Signal.PROMPT_TOKENS] == 10.0
    assert reading.histograms[Signal.TIME_TO_FIRST_TOKEN].total == 3.0


def test_a_histogram_named_total_is_no_counter():
    reading = vllm(
        "vllm:iteration_tokens_total_count 464", "vllm:iteration_tokens_total_sum 4320", "vllm:prompt_tokens_total 7"
    )
    assert reading.counters == {Signal.PROMPT_TOKENS: 7.0}


def test_data_parallel_engines_add_up_except_their_usage():
    reading = read(
        'vllm:num_requests_running{engine="0",model_name="m"} 2\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 6\n'
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2\n'
        'vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.9\n'
        'vllm:prompt_tokens_total{engine="0",model_name="m"} 10\n'
        'vllm:prompt_tokens_total{engine="1",model_name="m"} 30\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1\n'
        'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1\n'
        'vllm:e2e_request_latency_seconds_bucket{engine="0",le="1.0"} 1\n'
        'vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf"} 2\n'
        'vllm:e2e_request_latency_seconds_sum{engine="0"} 3\n'
        'vllm:e2e_request_latency_seconds_bucket{engine="1",le="1.0"} 5\n'
        'vllm:e2e_request_latency_seconds_bucket{engine="1",le="+Inf"} 5\n'
        'vllm:e2e_request_latency_seconds_sum{engine="1"} 4\n'
    )
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 8.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.9
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 3200.0
    assert reading.counters[Signal.PROMPT_TOKENS] == 40.0
    assert reading.histograms[Signal.REQUEST_LATENCY].cumulative == (6.0, 7.0)
    assert reading.histograms[Signal.REQUEST_LATENCY].total == 7.0


def test_capacity_is_trusted_by_tokens_where_blocks_are_overridden():
    reading = vllm(
        'vllm:cache_config_info{block_size="32",kv_cache_memory_bytes="1073741824",kv_cache_size_tokens="3200",'
        'num_gpu_blocks="100",num_gpu_blocks_override="100"} 1.0'
    )
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 3200.0


@pytest.mark.parametrize("blocks", ["None", "", "-5", "0", "many"])
def test_an_unset_number_of_blocks_is_no_capacity(blocks):
    reading = vllm(f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1.0')
    assert Signal.KV_CACHE_CAPACITY_TOKENS not in reading.gauges


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "Inf", "-1"])
def test_values_that_cannot_be_are_absent(value):
    reading = vllm(f"vllm:kv_cache_usage_perc {value}", f"vllm:prompt_tokens_total {value}")
    assert Signal.KV_CACHE_USAGE not in reading.gauges
    assert Signal.PROMPT_TOKENS not in reading.counters
    unknown = reading.gauge(Signal.KV_CACHE_USAGE)
    assert isinstance(unknown, Unknown)
    assert unknown.reason is UnknownReason.NOT_MEASURED


def test_one_engine_that_says_nan_makes_the_sum_absent_not_smaller():
    reading = read(
        'vllm:num_requests_waiting{engine="0"} NaN\nvllm:num_requests_waiting{engine="1"} 4\n'
        "vllm:num_requests_running 1\n"
    )
    assert Signal.REQUESTS_WAITING not in reading.gauges


def test_a_percentage_is_not_taken_for_a_ratio():
    assert Signal.KV_CACHE_USAGE not in vllm("vllm:kv_cache_usage_perc 45.2").gauges
    assert vllm("vllm:kv_cache_usage_perc 1.0000001").gauges[Signal.KV_CACHE_USAGE] == 1.0


@pytest.mark.parametrize(
    "lines",
    [
        ('x_bucket{le="1"} 3', 'x_bucket{le="+Inf"} 2', "x_count 2", "x_sum 1"),
        ('x_bucket{le="1"} 3', "x_sum 1"),
        ('x_bucket{le="1"} 3', 'x_bucket{le="+Inf"} 3', "x_count 3"),
        ('x_bucket{le="1"} 3', 'x_bucket{le="+Inf"} 3', "x_count 3", "x_sum NaN"),
        ('x_bucket{le="NaN"} 3', 'x_bucket{le="+Inf"} 3', "x_count 3", "x_sum 1"),
        ('x_bucket{le="1"} NaN', 'x_bucket{le="+Inf"} 3', "x_count 3", "x_sum 1"),
        ("x_count 3", "x_sum 1"),
    ],
    ids=["falls", "no count", "no sum", "NaN sum", "NaN bound", "NaN bucket", "summary"],
)
def test_an_inconsistent_histogram_is_absent(lines):
    reading = vllm(*(line.replace("x", "vllm:time_to_first_token_seconds", 1) for line in lines))
    assert Signal.TIME_TO_FIRST_TOKEN not in reading.histograms


def test_a_missing_infinity_bucket_is_closed_by_the_count():
    base = "vllm:time_to_first_token_seconds"
    histogram = vllm(f'{base}_bucket{{le="1"}} 3', f"{base}_count 5", f"{base}_sum 9").histograms[
        Signal.TIME_TO_FIRST_TOKEN
    ]
    assert histogram.bounds == (1.0, math.inf)
    assert histogram.cumulative == (3.0, 5.0)


def test_buckets_in_any_order():
    base = "vllm:time_to_first_token_seconds"
    histogram = vllm(
        f'{base}_bucket{{le="+Inf"}} 5', f'{base}_bucket{{le="2"}} 4', f'{base}_bucket{{le="1"}} 3', f"{base}_sum 9"
    ).histograms[Signal.TIME_TO_FIRST_TOKEN]
    assert histogram.bounds == (1.0, 2.0, math.inf)


def test_labels_that_look_like_syntax():
    base = "vllm:time_to_first_token_seconds"
    for model in (r"a}b", r"a,le=\"9\"", r"x,le=", r"back\\slash", "with space {", r"quote\"}", "#"):
        lines = [
            f'{base}_bucket{{model_name="{model}",le="1"}} 3',
            f'{base}_bucket{{model_name="{model}",le="+Inf"}} 5',
            f'{base}_count{{model_name="{model}"}} 5',
            f'{base}_sum{{model_name="{model}"}} 9',
            f'vllm:num_requests_running{{model_name="{model}"}} 6',
        ]
        reading = read("\n".join((*lines, "")))
        assert reading.histograms[Signal.TIME_TO_FIRST_TOKEN].cumulative == (3.0, 5.0), model
        assert reading.gauges[Signal.REQUESTS_RUNNING] == 6.0, model
        assert reading.model == model.replace(r"\"", '"').replace("\\\\", "\\")


def test_blanks_timestamps_exemplars_carriage_returns_and_a_byte_order_mark():
    reading = page.read(
        (
            "\ufeffvllm:num_requests_running 3 1795247900000\r\n"
            "  vllm:num_requests_waiting\t4\n"
            'vllm:kv_cache_usage_perc { engine = "0" , model_name="m" } 0.5 1795247900000\n'
            'vllm:time_to_first_token_seconds_bucket{le="1"} 3 # {trace_id="a}b"} 0.5 1795247900\n'
            'vllm:time_to_first_token_seconds_bucket{le="+Inf"} 3\n'
            "vllm:time_to_first_token_seconds_sum 1\n# EOF\n"
        ).encode(),
        at=1.0,
    )
    assert reading.gauges[Signal.REQUESTS_RUNNING] == 3.0
    assert reading.gauges[Signal.REQUESTS_WAITING] == 4.0
    assert reading.gauges[Signal.KV_CACHE_USAGE] == 0.5
    assert reading.histograms[Signal.TIME_TO_FIRST_TOKEN].count == 3.0


# ---- what other parsers got wrong -----------------------------------------------------------------------------------


def test_cache_config_info_has_no_model_name_and_is_read_all_the_same():
    # WVA filters it by model_name, and finds nothing.
    reading = readings(BATCH_BOUND)[0]
    assert "model_name" not in reading.facts
    assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 3200.0


def test_counters_without_their_suffix_are_not_counters_of_vllm():
    # WVA reads prefix_cache_hits, AIBrix num_requests_success_total: neither exists.
    reading = vllm("vllm:prefix_cache_hits 5", "vllm:num_requests_success_total 7", "vllm:request_success 7")
    assert reading.counters == {}


def test_an_underscore_for_the_colon_is_no_engine():
    # As in a Kthena proposal.
    with pytest.raises(PageError, match="no known engine"):
        read("vllm_num_requests_waiting 5\n")


def test_names_that_do_not_exist_are_not_signals():
    # archokshi/optiinfra reads these.
    reading = vllm("vllm:request_failure_total 3", "vllm:gpu_memory_usage_bytes 1e9")
    assert set(reading.gauges) == {Signal.REQUESTS_RUNNING}
    assert reading.counters == {}


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b'{"detail":"Not Found"}', "JSON"),
        (b"\x1f\x8b\x08\x00\x00", "not text"),
        (b"vllm:num_requests_running 1\x00\n", "NUL"),
        (b"go_goroutines 5\nnode_load1 0.3\n", "no known engine"),
        (b"vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc NaN\n", "nothing but NaN"),
        (b"vllm:something_new 5\n", "none of the known families"),
        (b"vllm:num_requests_running 1\nvllm:num_requests_waiting 1", "cut short"),
        (b'vllm:num_requests_running 1\nvllm:num_requests_waiting{engine="0', "cut short"),
        (b'vllm:num_requests_waiting{engine="0\n', "labels that cannot be read"),
        (b"vllm:num_requests_waiting\n", "no number"),
        (b"vllm:num_requests_waiting{} many\n", "no number"),
        (b'vllm:time_to_first_token_seconds_bucket{engine="0"} 1\n', "no label le"),
        (b'vllm:time_to_first_token_seconds_bucket{le="low"} 1\n', "bound"),
        (b"a" * (MAX_BYTES + 1), "bytes"),
        (b"vllm:x 1\n" + b"\n" * (MAX_LINES + 1), "lines"),
        (b"".join(b'vllm:num_requests_running{a="%d"} 1\n' % one for one in range(50_001)), "samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_page_that_cannot_be_read_says_why(content, detail):
    with pytest.raises(PageError, match=detail) as raised:
        page.read(content, at=1.0)
    assert raised.value.unknown.reason is UnknownReason.INVALID
    assert len(raised.value.unknown.detail) < 120


def test_a_page_may_end_without_line_feed_behind_a_family_nobody_reads():
    assert read("vllm:num_requests_running 1\nvllm:unread 3").gauges[Signal.REQUESTS_RUNNING] == 1.0
