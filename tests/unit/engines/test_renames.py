"""Every rename of every engine, from the tables themselves: each name alone is read, and the newest wins."""

import pytest

from optiinfra.domain.readings import Signal
from optiinfra.engines import lmcache, nim, page, sglang, tgi, triton, trtllm, vllm
from optiinfra.engines.alias import Kind
from tests.unit.engines.recorded import BATCH_BOUND, readings, written

TABLES = (
    vllm.TABLE, vllm.RAY_TABLE, vllm.RAY_SANITISED_TABLE, sglang.TABLE, tgi.TABLE, trtllm.TABLE, trtllm.DYNAMO_TABLE,
    triton.TABLE, nim.TABLE, lmcache.TABLE, lmcache.SERVER_TABLE,
)  # fmt: skip
RENAMED = [(table, alias) for table in TABLES for alias in table.aliases if len(alias.names) > 1]


def lines(table, alias, name, value):
    label = "" if name.only is None else f'{{{name.only[0]}="{min(name.only[1])}"}}'
    full = table.full(name)
    if alias.kind is not Kind.HISTOGRAM:
        return (f"{full}{label} {value}",)
    count = round(value * 100)
    return (f'{full}_bucket{{le="+Inf"}} {count}', f"{full}_count {count}", f"{full}_sum 1")


def value_of(table, alias, *written_lines):
    if table.prefix.startswith("lmcache"):
        host = "vllm:num_requests_running 1"
    else:
        running = next(one.names[0] for one in table.aliases if one.signal is Signal.REQUESTS_RUNNING)
        label = "" if running.only is None else f'{{{running.only[0]}="{min(running.only[1])}"}}'
        host = f"{table.full(running)}{label} 1"
    reading = page.read(("\n".join((host, *written_lines)) + "\n").encode(), at=0.0)
    if alias.kind is Kind.HISTOGRAM:
        found = reading.histograms.get(alias.signal)
        return None if found is None else found.count / 100
    return reading.gauges.get(alias.signal, reading.counters.get(alias.signal))


@pytest.mark.parametrize(
    ("table", "alias"), RENAMED, ids=[f"{table.prefix}{alias.signal}" for table, alias in RENAMED]
)  # fmt: skip
def test_a_renamed_family_is_read_by_every_name_and_the_newest_wins(table, alias):
    values = [0.25 + 0.05 * index for index in range(len(alias.names))]
    all_lines = [lines(table, alias, name, value) for name, value in zip(alias.names, values, strict=True)]
    for own, value in zip(all_lines, values, strict=True):
        assert value_of(table, alias, *own) == pytest.approx(value)
    # In whatever order they stand on the page.
    for order in (all_lines, all_lines[::-1]):
        assert value_of(table, alias, *(line for own in order for line in own)) == pytest.approx(values[0])


def test_there_are_renames_to_test():
    names = {name.text for _, alias in RENAMED for name in alias.names}
    assert {
        "gpu_cache_usage_perc",
        "gpu_prefix_cache_queries_total",
        "gpu_prefix_cache_hits_total",
        "time_per_output_token_seconds",
        "time_in_queue_requests",
    } <= names


def test_a_name_is_gone_only_after_its_successor_came():
    for table, alias in RENAMED:
        newer, older = alias.names[0], alias.names[-1]
        if newer.since and older.gone.startswith("0."):
            assert tuple(map(int, newer.since.split("."))) < tuple(map(int, older.gone.split("."))), table.prefix


@pytest.mark.parametrize(
    "name",
    [
        "num_requests_swapped",
        "cpu_cache_usage_perc",
        "avg_prompt_throughput_toks_per_s",
        "avg_generation_throughput_toks_per_s",
    ],
)
def test_families_that_were_removed_are_no_signal(name):
    reading = page.read(f"vllm:num_requests_running 1\nvllm:{name} 0.5\n".encode(), at=0.0)
    assert set(reading.gauges) == {Signal.REQUESTS_RUNNING}


def test_the_hit_rate_gauge_of_v0_gives_way_to_the_counters():
    reading = page.read(b"vllm:num_requests_running 1\nvllm:gpu_prefix_cache_hit_rate 0.4\n", at=0.0)
    assert reading.gauges[Signal.PREFIX_CACHE_HIT_RATIO] == 0.4
    assert reading.version == "V0"


def test_sglangs_page_size_as_labels_and_as_gauges():
    old = b'sglang:num_running_reqs 1\nsglang:cache_config_info{page_size="16",num_pages="100"} 1\n'
    new = b"sglang:num_running_reqs 1\nsglang:page_size 16\nsglang:num_pages 100\n"
    for content in (old, new):
        reading = page.read(content, at=0.0)
        assert reading.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] == 1600.0
        assert (reading.facts["page_size"], reading.facts["num_pages"]) == ("16", "100")


# ---- versions


@pytest.mark.parametrize(("family", "version"), vllm.VERSION_SIGNS)
def test_a_family_proves_a_version(family, version):
    if family == "inter_token_latency_seconds":
        sign = 'vllm:inter_token_latency_seconds_bucket{le="+Inf"} 1\nvllm:inter_token_latency_seconds_sum 1\n'
    else:
        label = '{source="local_compute"}' if "source" in family else ""
        sign = f"vllm:{family}{label} 0\n"
    assert page.read(f"vllm:num_requests_running 1\n{sign}".encode(), at=0.0).version == version


def test_versions_of_whole_pages():
    assert readings(BATCH_BOUND)[0].version == "V1 (>=0.30)"
    assert written("vllm_v0.txt").version == "V0"
    between = b'vllm:num_requests_running{engine="0"} 1\nvllm:gpu_cache_usage_perc{engine="0"} 0.1\n'
    assert page.read(between, at=0.0).version == "V1"
    both = between + b'vllm:kv_cache_usage_perc{engine="0"} 0.2\n'
    assert page.read(both, at=0.0).version == "V1 (>=0.9)"
    assert page.read(both, at=0.0).gauges[Signal.KV_CACHE_USAGE] == 0.2
    assert page.read(b"vllm:num_requests_running 1\n", at=0.0).version == ""
