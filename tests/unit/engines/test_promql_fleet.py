"""What is asked of a metrics server about a fleet: names that exist, labels that were found, few series."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optiinfra.domain.readings import Signal
from optiinfra.domain.report.frames import Frame, Question
from optiinfra.domain.report.joining_found import Found, Spelling, found, single
from optiinfra.engines import gpu_tables, lmcache, tgi, vllm
from optiinfra.engines.alias import Kind, Table
from optiinfra.engines.promql_fleet import (
    NAMESPACES_OF,
    discovery_questions,
    fleet_questions,
    label_questions,
    sharing_questions,
)
from optiinfra.engines.promql_fleet_engines import ENGINES
from optiinfra.engines.promql_fleet_parts import REVISION, STEM
from optiinfra_agent import gpu_families, metrics
from tests.unit.engines.recorded import BATCH_BOUND, DATA, lmcache_page, raw

NAMES = Path(__file__).parents[2] / "data" / "metric_names"
TIMES = np.array([0.0, 300.0])
OLD = Found(
    engines=Spelling(namespace=("kubernetes_namespace",), pod=("kubernetes_pod_name",)),
    gpus=Spelling(("namespace", "exported_namespace"), ("pod", "exported_pod"), ("container", "exported_container")),
    state=Spelling(
        ("namespace", "exported_namespace"),
        ("pod", "exported_pod"),
        ("container", "exported_container"),
        ("node", "exported_node"),
    ),
    containers=Spelling(pod=("pod_name",), container=("container_name",)),
    namespaces=("inference", "research"),
)


def on_page(text: str) -> set[str]:
    return {line.partition("{")[0].split()[0] for line in text.splitlines() if line and not line.startswith("#")}


def recorded(engine: str) -> set[str]:
    """Series on the pages at hand of one engine."""
    pages = {
        "vllm": [raw(BATCH_BOUND)[-1][0].decode(), (DATA / "vllm_v0.txt").read_text()],
        "lmcache": [lmcache_page().decode()],
    }
    found_on = pages.get(engine) or [(DATA / f"{engine}.txt").read_text()]
    return {name for page in found_on for name in on_page(page)}


def in_tables() -> set[str]:
    """Series that the engines' tables know, each checked against a version of its engine."""
    names: set[str] = set()
    tables: list[Table] = [table for engine in ENGINES for table in engine.tables]
    for table in (*tables, *lmcache.GUESTS):
        for alias in table.aliases:
            for name in alias.names:
                full = table.full(name)
                names |= (
                    {f"{full}{end}" for end in ("_bucket", "_sum", "_count")}
                    if alias.kind is Kind.HISTOGRAM
                    else {full}
                )
        names |= {f"{table.prefix}{name}" for name in (*table.extra, table.info) if name}
        names |= set(table.extra_bare)
    names |= set(gpu_tables.FAMILIES)
    return names


def of_the_agent() -> set[str]:
    listed = [name for name, *_ in (*gpu_families.GPU, *gpu_families.MIG, *metrics._CPU, *metrics._MEMORY)]
    return {f"optiinfra_{name}" for name in listed} | {
        "optiinfra_gpu_info",
        "optiinfra_gpu_mig_device_info",
        "optiinfra_gpu_allocation_info",
    }


def listed() -> set[str]:
    """Series of exporters that are no engines, from their own lists (see the head of each file)."""
    lines = [line for path in sorted(NAMES.glob("*.txt")) for line in path.read_text().splitlines()]
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def all_questions() -> Iterator[Question]:
    yield from discovery_questions()
    yield from label_questions()
    for seen in (Found(), OLD, replace(OLD, single=frozenset(one.name for one in ENGINES))):
        yield from sharing_questions(seen)
        yield from fleet_questions(seen)


def test_every_series_asked_for_is_known_from_a_page_a_table_or_an_exporters_list():
    known = in_tables() | of_the_agent() | listed()
    for engine in ("vllm", "lmcache", "sglang", "tgi", "trtllm", "nim", "triton"):
        known |= recorded(engine)
    asked = {name for question in all_questions() for name in question.metrics}
    assert asked - known == set()


def test_a_misspelt_series_would_be_noticed():
    known = in_tables() | of_the_agent() | listed()
    assert {"vllm:num_request_running", "kube_pod_owners", "DCGM_FI_DEV_GPU_UTILIZATION"} & known == set()


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tgi", "nim", "triton", "trtllm", "lmcache"])
def test_what_a_report_rests_on_is_on_real_pages(engine: str):
    there = recorded(engine)
    wanted = {"serving", "running", "waiting", "prompt_tokens", "generation_tokens", "requests", "kv_usage"}
    if engine == "lmcache":
        wanted = {"requested_tokens", "hit_tokens", "stored_tokens", "local_bytes"}
    if engine == "tgi":
        wanted = wanted - {"kv_usage"} | {"kv_reserved"}
    if engine == "trtllm":
        wanted -= {"prompt_tokens", "generation_tokens"}  # since 1.3, and only with return_perf_metrics
    if engine == "triton":
        wanted -= {"prompt_tokens", "generation_tokens", "requests"}  # not on the page at hand
    for question in fleet_questions():
        prefix, _, field = question.name.partition(".")
        if prefix == engine and field in wanted:
            wanted.discard(field)
            assert there & set(question.metrics), (
                f"{question.name}: none of {question.metrics} is on a page of {engine}"
            )
    assert wanted == set()


def test_every_selector_names_a_series_that_the_question_counts():
    for question in all_questions():
        names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=\{)", question.promql))
        names |= {one for group in re.findall(r'__name__=~"([^"]*)"', question.promql) for one in group.split("|")}
        helpers = {"kube_pod_status_phase"}
        assert names - helpers <= set(question.metrics), question.name
        assert set(question.metrics) <= names, question.name


def test_every_selector_leaves_a_place_for_matchers_and_every_range_one_for_the_window():
    for question in all_questions():
        assert question.promql.count("{") - question.promql.count("{1,10}") - question.promql.count("{5}") == (
            question.promql.count("$matchers")
        ), question.name
        assert set(re.findall(r"\[([^\]]+)\]", re.sub(r'"[^"]*"', "", question.promql))) <= {
            "$window",
            "1d",
            "14d:20m",
            "14d:1h",
            "1h:15m",
        }
        assert question.promql.count("(") == question.promql.count(")")


def test_names_are_unique_and_labels_are_told():
    for questions in (discovery_questions(), label_questions(), fleet_questions(), fleet_questions(OLD)):
        names = [question.name for question in questions]
        assert len(names) == len(set(names))
        for question in questions:
            assert question.by
            assert len(set(question.by)) == len(question.by)


@pytest.mark.parametrize(
    ("pod", "stem"),
    [
        ("vllm-llama-7d9f8b6c5-x2x4z", "vllm-llama"),
        ("llama-3-8b-5669d-22455", "llama-3-8b"),
        ("vllm-qwen-0", "vllm-qwen"),
        ("vllm-qwen-12", "vllm-qwen"),
        ("big-0-3", "big-0"),
        ("dcgm-exporter-x2x4z", "dcgm-exporter"),
        ("bare-pod", "bare-pod"),
        ("a", "a"),
    ],
)
def test_the_workload_is_cut_out_of_a_pods_name(pod: str, stem: str):
    match = re.fullmatch(STEM, pod)
    assert match is not None
    assert match.group(1) == stem


def test_a_replica_sets_name_is_its_deployments_and_a_hash():
    match = re.fullmatch(REVISION, "vllm-llama-7d9f8b6c5")
    assert match is not None
    assert match.group(1) == "vllm-llama"


def test_old_and_new_names_of_a_signal_are_alternatives_of_one_question_newest_first():
    question = next(one for one in fleet_questions() if one.name == "vllm.kv_usage")
    new, old = "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"
    assert question.promql.index(new) < question.promql.index(old)
    assert " or " in question.promql


def test_copies_and_ranks_are_one_before_anything_is_added_up():
    for question in fleet_questions():
        prefix, _, field = question.name.partition(".")
        if prefix in {one.name for one in ENGINES} and field in {"prompt_tokens", "running", "kv_usage"}:
            assert "max by (namespace,pod,instance" in question.promql, question.name
            assert not re.search(r"max by \([^)]*(tp_rank|replica|pid)", question.promql), question.name


def test_pages_that_come_once_are_added_up_as_they_are():
    alike = {one.name: one for one in fleet_questions(Found(single=frozenset({"vllm"})))}
    assert "max by" not in alike["vllm.prompt_tokens"].promql
    assert "max by" not in alike["vllm.running"].promql
    assert "max by (namespace,pod,instance" in alike["sglang.running"].promql
    # Of two names that one page has under the same labels or others, the first counts.
    assert " or on (namespace,pod,instance,engine" in alike["vllm.kv_usage"].promql
    copied = Found(single=frozenset({"vllm"}), copies=("prometheus-0", "prometheus-1"))
    assert any(one.name == "vllm.running" and "max by (" in one.promql for one in fleet_questions(copied))


def test_whether_pages_come_once_is_asked_of_each_engine_that_is_there():
    seen = Found(names=frozenset({"vllm:num_requests_running", "sglang:num_running_reqs"}), looked=True)
    vllm_asked, sglang_asked = sharing_questions(seen)
    assert (vllm_asked.name, sglang_asked.name) == ("found.sharing.vllm", "found.sharing.sglang")
    assert "count by (__name__,namespace,pod,instance,engine" in vllm_asked.promql
    once = Frame(vllm_asked, (("vllm:num_requests_running",),), TIMES, np.array([[1.0, np.nan]]), samples=1)
    ranks = Frame(sglang_asked, (("sglang:num_running_reqs",),), TIMES, np.array([[1.0, 4.0]]), samples=1)
    assert single([once, ranks]) == {"vllm"}
    assert single([Frame(vllm_asked, (), TIMES, np.empty((0, 2)), samples=0)]) == frozenset()


def test_alternatives_that_do_not_exist_are_not_asked_for():
    there = frozenset({"vllm:kv_cache_usage_perc", "DCGM_FI_DEV_GPU_UTIL"})
    asked = {one.name: one for one in fleet_questions(Found(existing=there))}
    assert asked["vllm.kv_usage"].metrics == ("vllm:kv_cache_usage_perc",)
    assert "gpu_cache_usage_perc" not in asked["vllm.kv_usage"].promql
    assert asked["dcgm.utilization"].metrics == ("DCGM_FI_DEV_GPU_UTIL",)
    # What has no alternative left names them all: whoever asks tells that none of them is there.
    assert len(asked["sglang.generation_tokens"].metrics) > 1


def test_only_what_was_found_is_asked_for_under_the_labels_that_were_found():
    seen = Found(names=frozenset({"vllm:num_requests_running"}), looked=True)
    names = {question.name.partition(".")[0] for question in fleet_questions(seen)}
    assert names == {"vllm"}
    assert not any("ray_vllm" in question.promql for question in fleet_questions(seen))
    for question in fleet_questions(OLD):
        if question.name.startswith("vllm."):
            assert question.split_by == "kubernetes_namespace"
            assert '"workload", "$1", "kubernetes_pod_name"' in question.promql
    held = next(one for one in fleet_questions(OLD) if one.name == "dcgm.holders").promql
    assert 'exported_pod!=""' in held
    assert 'exported_pod="",' in held
    owners = next(one for one in fleet_questions(OLD) if one.name == "state.owners").promql
    assert 'exported_namespace=~"inference|research"' in owners


def test_questions_that_can_be_limited_to_namespaces_say_by_which_label():
    for question in all_questions():
        assert question.split_by in {*NAMESPACES_OF, "instance", ""}, question.name


def test_percentiles_and_pods_are_asked_for_at_the_end_only():
    for question in fleet_questions():
        if "_bucket" in question.promql and "le=~" not in question.promql:
            assert question.latest, question.name
        if "pod" in question.by and question.name != "agent.models":  # one agent a node, which seldom starts
            assert question.latest, question.name


def answer(name: str, rows: dict[tuple[str, ...], float]) -> Frame:
    question = next(one for one in (*discovery_questions(), *label_questions()) if one.name == name)
    keys = tuple(sorted(rows))
    times = TIMES[-1:] if question.latest else TIMES
    return Frame(question, keys, times, np.array([[rows[key]] * len(times) for key in keys]), samples=1)


def labels(**given: str) -> tuple[str, ...]:
    question = discovery_questions()[0]
    return tuple(given.get(label.strip("_"), "") for label in question.by)


def test_the_first_round_tells_what_is_there_and_what_labels_are_called():
    seen = found(
        [
            answer(
                "found.engines",
                {
                    labels(name="vllm:num_requests_running", namespace="inference", prometheus_replica="a"): 3.0,
                    labels(name="vllm:num_requests_running", namespace="inference", prometheus_replica="b"): 3.0,
                    labels(name="tgi_batch_current_size", exported_namespace="research"): 1.0,
                },
            ),
            answer(
                "found.gpus",
                {
                    labels(name="DCGM_FI_DEV_GPU_UTIL", namespace="gpu-operator", exported_namespace="training"): 1.0,
                    labels(name="DCGM_FI_DEV_GPU_UTIL", namespace="gpu-operator"): 3.0,
                    labels(name="DCGM_FI_DEV_FB_USED", namespace="notebooks"): 1.0,
                },
            ),
            answer("found.labels.engines", {("namespace",): 3.0, ("kubernetes_pod_name",): 3.0}),
            answer("found.labels.gpus", {("namespace",): 3.0, ("pod",): 3.0, ("exported_pod",): 2.0}),
        ]
    )
    assert seen.has("tgi_batch_current_size")
    assert not seen.has("sglang:num_running_reqs")
    assert seen.namespaces == ("inference", "notebooks", "research", "training")
    assert seen.copies == ("a", "b")
    assert seen.clusters == ()
    assert seen.engines.pod == ("kubernetes_pod_name",)
    assert seen.gpus.pod == ("pod", "exported_pod")
    assert seen.engines.unusual == ("kubernetes_pod_name",)
    assert not seen.engines.by_service


def test_clusters_matter_where_they_share_a_namespace():
    def rows(second: str) -> dict[tuple[str, ...], float]:
        return {
            labels(name="vllm:num_requests_running", namespace="chat", cluster="east"): 1.0,
            labels(name="vllm:num_requests_running", namespace=second, cluster="west"): 1.0,
        }

    assert found([answer("found.engines", rows("chat"))]).clusters == ("east", "west")
    assert found([answer("found.engines", rows("code"))]).clusters == ()


def test_series_that_name_no_pod_are_told_by_their_service():
    rows = {labels(name="vllm:num_requests_running", namespace="inference"): 3.0}
    spelt = answer("found.labels.engines", {("job",): 3.0, ("service",): 3.0, ("namespace",): 3.0})
    seen = found([answer("found.engines", rows), spelt])
    assert seen.engines.by_service
    question = next(one for one in fleet_questions(seen) if one.name == "vllm.serving")
    assert "instance" in question.promql
    assert '"workload", "$1", "service", "(.+)"' in question.promql


def test_an_empty_server_has_nothing_to_be_asked():
    assert fleet_questions(found([])) == ()


def test_signals_of_tgi_come_from_the_sums_of_its_histograms():
    question = next(one for one in fleet_questions() if one.name == "tgi.prompt_tokens")
    assert question.metrics == (f"{tgi.TABLE.prefix}request_input_length_sum",)
    assert not any(alias.signal is Signal.PROMPT_TOKENS for alias in tgi.TABLE.aliases)
    assert any(alias.signal is Signal.PROMPT_TOKENS for alias in vllm.TABLE.aliases)
