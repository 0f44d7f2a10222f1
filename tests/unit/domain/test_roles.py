"""Disaggregated services and groups of pods: who says what, and nothing counts twice."""

import pytest

from optiinfra.domain.aggregation import GENERATION_WEIGHT, RULES, From
from optiinfra.domain.groups import count_groups, counted_pages, group_of, one_page_a_group
from optiinfra.domain.readings import EngineKind, EngineReading, Histogram, Signal, Unknown
from optiinfra.domain.roles import Role, summarise_roles
from optiinfra.domain.signals import ServiceSignals, summarise
from optiinfra.domain.workload import WorkloadFacts

S = Signal


def engine(*, first, requests, running, waiting, usage, ttft, itl, prompt, generation):
    """Two pages of one engine, ten seconds apart: what it counted in between, and how it stands at the end."""

    def page(time, part):
        def timing(mean):
            return Histogram((mean, float("inf")), (part * 10.0, part * 10.0), part * 10.0 * mean, part * 10.0)

        return EngineReading(
            time=time, engine=EngineKind.VLLM, version="", model="m",
            gauges={S.REQUESTS_RUNNING: running, S.REQUESTS_WAITING: waiting * part, S.KV_CACHE_USAGE: usage},
            counters={
                S.REQUESTS_FINISHED: first + part * requests, S.PROMPT_TOKENS: part * prompt,
                S.GENERATION_TOKENS: part * generation,
            },
            histograms={S.TIME_TO_FIRST_TOKEN: timing(ttft), S.INTER_TOKEN_LATENCY: timing(itl)},
        )  # fmt: skip

    return [page(0.0, 0.0), page(10.0, 1.0)]


def summary(**pages):
    return summarise(pages, now=10.0, window=100.0, stale_after=60.0, replicas_expected=len(pages))


PREFILL = summary(
    p=engine(first=5, requests=20, running=2, waiting=7, usage=0.1, ttft=0.5, itl=9.0, prompt=4000, generation=20)
)
DECODE = summary(
    d=engine(first=5, requests=20, running=30, waiting=1, usage=0.8, ttft=70.0, itl=0.05, prompt=4000, generation=2000),
    e=engine(first=5, requests=0, running=10, waiting=0, usage=0.3, ttft=70.0, itl=0.05, prompt=0, generation=0),
)


def test_each_part_says_what_it_knows():
    found = summarise_roles({Role.PREFILL: PREFILL, Role.DECODE: DECODE})
    whole = found.whole
    assert whole.time_to_first_token_mean == pytest.approx(0.5)
    assert whole.inter_token_latency_mean == pytest.approx(0.05)
    assert whole.waiting == 7.0
    assert whole.kv_cache_usage == 0.8
    assert whole.running == 42.0
    assert whole.running_per_replica_max == 30.0
    assert whole.replicas_expected == 3
    assert whole.replicas_reporting == 3
    assert found.parts[Role.DECODE] is DECODE


def test_requests_and_tokens_that_both_parts_count_are_counted_once():
    whole = summarise_roles({Role.PREFILL: PREFILL, Role.DECODE: DECODE}).whole
    assert whole.request_rate == pytest.approx(2.0)
    assert whole.prompt_token_rate == pytest.approx(400.0)
    assert whole.generation_token_rate == pytest.approx(200.0)
    assert whole.work_rate == pytest.approx(400.0 + GENERATION_WEIGHT * 200.0)
    # Those that came in came in through the prefill part: twenty left it, and seven more wait there.
    assert whole.arrival_rate == pytest.approx(2.7)


def test_a_part_that_cannot_say_is_unknown_and_not_taken_from_the_other():
    silent = summary()
    whole = summarise_roles({Role.PREFILL: silent, Role.DECODE: DECODE}).whole
    assert isinstance(whole.time_to_first_token_mean, Unknown)
    assert isinstance(whole.work_rate, Unknown)
    assert isinstance(whole.running, Unknown)
    assert whole.kv_cache_usage == 0.8


def test_unified_engines_beside_one_part_speak_for_the_other():
    whole = summarise_roles({Role.PREFILL: PREFILL, Role.UNIFIED: DECODE}).whole
    assert whole.waiting == 7.0
    assert whole.kv_cache_usage == 0.8
    assert summarise_roles({Role.UNIFIED: DECODE}).whole is DECODE
    alone = summarise_roles({Role.DECODE: DECODE}).whole
    assert alone.time_to_first_token_mean == DECODE.time_to_first_token_mean
    with pytest.raises(ValueError, match="at least one"):
        summarise_roles({})


def test_every_field_has_a_rule_and_says_which_part_knows_it():
    times = {"time", "window", "replicas_expected", "replicas_reporting"}
    # Pages of a minute show the batch itself while others wait: only windows of hours need to be told of it.
    of_hours = {"running_when_waiting"}
    assert set(RULES) == set(ServiceSignals.__dataclass_fields__) - times - of_hours
    assert RULES["time_to_first_token_p95"].part is From.PREFILL
    assert RULES["inter_token_latency_p95"].part is From.DECODE
    assert RULES["waiting"].part is From.PREFILL
    assert RULES["kv_cache_usage"].part is From.DECODE


# ---- LeaderWorkerSet


def test_pods_of_a_group():
    assert group_of("llama-0", workload="llama") == ("llama-0", 0)
    assert group_of("llama-0-3", workload="llama") == ("llama-0", 3)
    assert group_of("llama-12-1", workload="llama") == ("llama-12", 1)
    assert group_of("llama-7b-0-1", workload="llama-7b") == ("llama-7b-0", 1)
    # Not the controller's names: replicas of their own.
    assert group_of("llama-6f7b9-x2x", workload="llama") == ("llama-6f7b9-x2x", 0)
    assert group_of("other-0-1", workload="llama") == ("other-0-1", 0)
    assert group_of("llama-0-1-2", workload="llama") == ("llama-0-1-2", 0)


def test_a_worker_that_serves_the_leaders_counters_again_is_not_counted():
    def pages():
        return engine(first=0, requests=20, running=8, waiting=0, usage=0.5, ttft=1, itl=1, prompt=10, generation=100)

    served = {"llama-0": pages(), "llama-0-1": pages(), "llama-1-1": pages(), "llama-1": pages()}
    kept = one_page_a_group(served, workload="llama")
    assert list(kept) == ["llama-0", "llama-1"]
    assert count_groups(set(served), workload="llama") == 2
    signals = summarise(kept, now=10.0, window=60.0, stale_after=60.0, replicas_expected=2)
    assert signals.running == 16.0
    assert signals.generation_token_rate == pytest.approx(20.0)
    assert signals.replicas_reporting == 2


def test_a_group_whose_leader_is_silent_is_told_by_its_first_worker():
    assert one_page_a_group({"llama-0-2": "b", "llama-0-1": "a"}, workload="llama") == {"llama-0-1": "a"}


def test_only_a_leader_worker_set_has_groups():
    def facts(kind):
        return WorkloadFacts(
            namespace="n", kind=kind, name="llama", uid="u", desired_replicas=1, ready_replicas=1, pods=(), scaler=None,
            pages={"llama-0": (), "llama-0-1": ()},
        )  # fmt: skip

    assert list(counted_pages(facts("LeaderWorkerSet"))) == ["llama-0"]
    # Pods of a StatefulSet of that name end with a number too, and each is a replica.
    assert list(counted_pages(facts("StatefulSet"))) == ["llama-0", "llama-0-1"]
