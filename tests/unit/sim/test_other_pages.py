"""SGLang's and TGI's pages: names, labels, bounds and number forms of the real ones, values of the engine."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import PageTimes
from optiinfra_sim.pages import render
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineKind, EngineSettings

TIMES = PageTimes(started=1_795_248_200.5, serving=1_795_248_249.25)
# Bounds and label sets as they stand on pages of real engines (DataDog/integrations-core, BSD-3-Clause; SGLang's docs).
TGI_DURATIONS = ["0.00015000000000000001", "0.00022500000000000002", "0.0003375", "0.00050625", "0.000759375"]
TGI_LENGTHS_OF_511 = ["5.11", "10.22", "15.330000000000002", "20.44", "25.55", "30.660000000000004", "35.77"]
RANK = {"engine_type": "unified", "model_name": "llama-3.1-8b", "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}


def played(kind, *, to, requests=12, **changes):
    limits = {"max_num_seqs": 6, "max_model_len": 512, "num_blocks": 200, "max_num_batched_tokens": 512} | changes
    engine = Engine(settings=EngineSettings(kind=kind, **limits))
    for index in range(requests):
        engine.submit(
            Request(
                number=index + 1,
                arrival=index * 0.01,
                prompt=120 + 10 * index,
                output=40,
                limit=80,
                content=((7, 64), (100 + index, 56 + 10 * index)),
            )
        )
    engine.advance(to=to)
    return engine


def samples(engine):
    page = render(engine, times=TIMES).decode()
    return page, {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def one(found, name, **labels):
    hits = [value for (own, of), value in found.items() if own == name and labels.items() <= dict(of).items()]
    assert len(hits) == 1, (name, labels, hits)
    return hits[0]


def bounds(page, name):
    return [bound for bound in re.findall(rf'^{name}_bucket\{{.*le="([^"]+)"', page, re.MULTILINE) if bound != "+Inf"]


def test_sglang_gauges_carry_the_rank_and_say_what_is_cached():
    engine = played(EngineKind.SGLANG, to=0.25)
    page, found = samples(engine)
    assert engine.running
    assert one(found, "sglang:num_running_reqs", **RANK) == engine.running
    assert one(found, "sglang:num_queue_reqs", **RANK) == engine.waiting
    assert one(found, "sglang:token_usage", **RANK) == pytest.approx(engine.kv_usage)
    whole = one(found, "sglang:max_total_num_tokens")
    parts = [one(found, f"sglang:kv_{part}_tokens") for part in ("used", "evictable", "available")]
    assert sum(parts) == whole == 199 * 16
    assert one(found, "sglang:num_pages") * one(found, "sglang:page_size") == whole
    assert "_created" not in page
    assert 'sglang:num_retracted_reqs{engine_type="unified",model_name="llama-3.1-8b",moe_ep_rank="0",pid=' in page


def test_sglang_counters_and_histograms_of_ended_requests():
    page, found = samples(played(EngineKind.SGLANG, to=60.0))
    assert one(found, "sglang:num_requests_total", is_streaming="true") == 12
    assert one(found, "sglang:generation_tokens_total") == 12 * 40
    assert one(found, "sglang:realtime_tokens_total", mode="decode") == 12 * 40
    assert one(found, "sglang:cached_tokens_total", cache_source="device") == 11 * 64
    assert one(found, "sglang:time_to_first_token_seconds_count") == 12
    assert one(found, "sglang:inter_token_latency_seconds_count") == 12 * 39
    assert bounds(page, "sglang:time_to_first_token_seconds")[:6] == ["0.1", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert bounds(page, "sglang:queue_time_seconds")[0] == "0.0"
    lines = [line for line in page.splitlines() if line.startswith("sglang:time_to_first_token_seconds")]
    assert lines[0].startswith("sglang:time_to_first_token_seconds_sum{")
    assert lines[-1].startswith("sglang:time_to_first_token_seconds_count{")


def test_families_of_sglang_that_saw_nothing_do_not_appear():
    page, found = samples(played(EngineKind.SGLANG, to=1.0, requests=0))
    assert "sglang:num_requests_total" not in page
    assert "sglang:time_to_first_token_seconds" not in page
    assert one(found, "sglang:num_running_reqs") == 0


def test_kinds_stand_in_the_order_of_the_multiprocess_mode():
    page, _ = samples(played(EngineKind.SGLANG, to=60.0))
    kinds = re.findall(r"^# TYPE \S+ (\w+)$", page, re.MULTILINE)
    assert kinds == sorted(kinds)
    assert set(kinds) == {"counter", "gauge", "histogram"}


def test_retractions_are_counted_with_their_tokens():
    engine = played(EngineKind.SGLANG, to=60.0, num_blocks=34)
    _, found = samples(engine)
    assert one(found, "sglang:num_retracted_requests_total") == engine.metrics.preemptions > 0
    assert one(found, "sglang:num_retracted_input_tokens_total") >= 120 * engine.metrics.preemptions


def test_sglang_decoding_pauses_while_a_prompt_is_computed():
    engine = Engine(settings=EngineSettings(kind=EngineKind.SGLANG, prefill_token_seconds=0.001))
    engine.submit(Request(number=1, arrival=0.0, prompt=10, output=200))
    engine.submit(Request(number=2, arrival=0.5, prompt=1_000, output=2))
    engine.advance(to=10.0)
    gaps = engine.metrics.inter_token_latency
    assert gaps.count == 199 + 1
    assert sum(count for bound, count in zip((*gaps.bounds, 1e9), gaps.counts, strict=True) if bound > 1.0) == 1
    assert gaps.sum == pytest.approx(engine.metrics.decode_time.sum)


def test_tgi_writes_numbers_and_labels_as_rust_does():
    page, found = samples(played(EngineKind.TGI, to=60.0))
    assert bounds(page, "tgi_request_queue_duration")[:5] == TGI_DURATIONS
    assert bounds(page, "tgi_request_input_length")[:7] == TGI_LENGTHS_OF_511
    assert bounds(page, "tgi_batch_next_size")[-1] == "1024"
    assert re.search(r'^tgi_batch_inference_duration_bucket\{method="prefill",le="0\.0003375"\} 0$', page, re.MULTILINE)
    assert "\ntgi_request_success 12\n" in page
    assert "_total " not in page
    assert "model" not in page
    assert "# HELP tgi_batch_max_total_tokens" not in page
    assert "\n\n# " in page
    assert page.endswith("\n\n")
    assert one(found, "tgi_request_generated_tokens_sum") == 12 * 40
    assert one(found, "tgi_request_max_new_tokens_sum") == 12 * 80
    # prometheus_client adds the suffix to counters that have none.
    assert one(found, "tgi_batch_inference_count_total", method="decode") > 39


def test_tgi_reserves_the_whole_answer_and_never_preempts():
    engine = played(EngineKind.TGI, to=0.3, num_blocks=40)
    _, found = samples(engine)
    reserved = sum(request.prompt + 80 for request in engine.running_requests)
    assert one(found, "tgi_batch_current_max_tokens") == reserved > 0
    assert one(found, "tgi_batch_max_total_tokens") == 39 * 16
    assert engine.waiting > 0
    engine.advance(to=60.0)
    assert engine.metrics.preemptions == 0
    assert engine.metrics.finished_by_stop == 12
    assert engine.kv_usage == 0
