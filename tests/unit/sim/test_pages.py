"""The rendered page against a recorded page of a real vLLM 0.32."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from optiinfra_sim.engine import Engine
from optiinfra_sim.pages import PageTimes, number, render
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings

LIKE_THE_RECORDED = EngineSettings(
    model_name="tiny-llama",
    max_num_seqs=32,
    max_num_batched_tokens=2048,
    max_model_len=2048,
    block_size=32,
    num_blocks=65,
)
TIMES = PageTimes(started=1_795_248_200.5, serving=1_795_248_249.25)


def played(settings=LIKE_THE_RECORDED, *, requests=20):
    engine = Engine(settings=settings)
    for index in range(requests):
        engine.submit(Request(number=index, arrival=index * 0.01, prompt=300, output=80))
    engine.advance(to=20.0)
    return engine


def shape(text):
    """Everything on a page but the values: names, kinds, help texts, label names, bucket bounds."""
    lines = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines.append(line)
            continue
        name = re.match(r"[a-z_:]+", line).group()
        labels = re.findall(r'(\w+)="([^"]*)"', line)
        fixed = {"le", "reason", "source", "finished_reason", "sleep_state", "generation", "handler", "method"}
        lines.append((name, *((label, value if label in fixed else "") for label, value in labels)))
    return lines


def test_page_has_the_recorded_lines_in_the_recorded_order(memory_bound):
    real = memory_bound.pages[-1].body.decode()
    assert shape(render(played(), times=TIMES).decode()) == shape(real)


def test_page_before_the_first_request_has_them_too(memory_bound):
    real = memory_bound.pages[0].body.decode()
    assert shape(render(played(requests=0), times=TIMES).decode()) == shape(real)


def test_parsed_families_agree_with_the_recorded_ones(memory_bound):
    def families(body):
        return {
            family.name: (
                family.type,
                family.documentation,
                frozenset((sample.name, frozenset(sample.labels)) for sample in family.samples),
                tuple(sample.labels["le"] for sample in family.samples if "le" in sample.labels),
            )
            for family in text_string_to_metric_families(body.decode())
        }

    assert families(render(played(), times=TIMES)) == families(memory_bound.pages[-1].body)


def test_iteration_tokens_total_is_a_histogram_and_counters_have_created_gauges():
    parsed = {f.name: f for f in text_string_to_metric_families(render(played(), times=TIMES).decode())}
    assert parsed["vllm:iteration_tokens_total"].type == "histogram"
    assert parsed["vllm:prompt_tokens"].type == "counter"
    created = parsed["vllm:prompt_tokens_created"]
    assert created.type == "gauge"
    assert created.samples[0].value == TIMES.serving


def test_values_are_the_engine_s(read_gauge):
    engine = played()
    body = render(engine, times=TIMES)
    assert read_gauge(body, "vllm:num_requests_running") == engine.running == 0
    assert read_gauge(body, "vllm:request_generation_tokens_sum") == 20 * 80
    assert read_gauge(body, "vllm:prompt_tokens_total") == 20 * 300
    assert read_gauge(body, "vllm:time_to_first_token_seconds_count") == 20
    assert read_gauge(body, "vllm:num_preemptions_total") == engine.metrics.preemptions
    assert read_gauge(body, "process_start_time_seconds") == TIMES.started


def test_histograms_are_cumulative_and_end_at_their_count():
    for family in text_string_to_metric_families(render(played(), times=TIMES).decode()):
        if family.type != "histogram":
            continue
        buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
        count = next(sample.value for sample in family.samples if sample.name.endswith("_count"))
        assert buckets == sorted(buckets)
        assert buckets[-1] == count


def test_cache_config_says_what_the_engine_holds_and_has_no_model_name():
    parsed = {f.name: f for f in text_string_to_metric_families(render(played(), times=TIMES).decode())}
    labels = parsed["vllm:cache_config_info"].samples[0].labels
    assert "model_name" not in labels
    assert labels["num_gpu_blocks"] == "65"
    assert labels["kv_cache_size_tokens"] == "2080"
    assert labels["kv_cache_max_concurrency"] == "1.015625"  # as the real one says of the same pool


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0.0"),
        (5, "5.0"),
        (0.859375, "0.859375"),
        (1795248249.646511, "1.795248249646511e+09"),
        (12500000, "1.25e+07"),
    ],
)
def test_numbers_are_written_as_prometheus_client_writes_them(value, written):
    assert number(value) == written
