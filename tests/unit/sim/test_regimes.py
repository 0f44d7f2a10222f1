"""The labelled regimes: labels are causes, traps look like what they are not, tuning and judging are different."""

import functools
import itertools
import re
from dataclasses import replace
from statistics import mean

import pytest

from optiinfra_sim import regimes
from optiinfra_sim.regime import _Stage
from optiinfra_sim.regimes import JUDGING, TUNING, Label, play

ALL = {**TUNING, **JUDGING}
LIMITED = [name for name, regime in ALL.items() if regime.remedy]
TIME_TO_FIRST_TOKEN = 2.0
INTER_TOKEN_LATENCY = 0.1
RUNNING = re.compile(rb"^vllm:num_requests_running\S* (\S+)$", re.MULTILINE)
WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\}) (\S+)$", re.MULTILINE)
DEFERRED = re.compile(rb'^vllm:num_requests_waiting_by_reason\{.*"deferred"\} (\S+)$', re.MULTILINE)


def total(scrape, pattern):
    found = [pattern.search(page) for page in scrape.pages.values()]
    assert all(found)
    return sum(float(one.group(1)) for one in found)


def watched(regime):
    """Labels with what the engines themselves say: (truth, waiting, batch, pool, late first tokens, slow tokens)."""
    stage = _Stage(regime)
    stage.advance(to=0.0)
    rows = []
    before = None
    for index in range(regime.scrapes):
        at = index * regime.interval
        stage.advance(to=at)
        engines = [one.engine for one in stage._fleet.replicas.values() if one.engine is not None]
        counts = []
        for name, limit in (("time_to_first_token", TIME_TO_FIRST_TOKEN), ("inter_token_latency", INTER_TOKEN_LATENCY)):
            series = [getattr(engine.metrics, name) for engine in engines]
            late = sum(
                count
                for one in series
                for bound, count in zip((*one.bounds, 1e9), one.counts, strict=True)
                if bound > (2.5 if limit == TIME_TO_FIRST_TOKEN else limit)
            )
            counts += [late, sum(one.count for one in series)]
        rows.append(
            {
                "truth": regime.truth(at),
                "waiting": sum(engine.waiting for engine in engines),
                "running": sum(engine.running for engine in engines),
                "usage": max(engine.kv_usage for engine in engines),
                "cached": max(engine.cached_blocks / engine.settings.usable_blocks for engine in engines),
                "preempted": sum(engine.metrics.preemptions for engine in engines),
                "late": [now - then for now, then in zip(counts, before or counts, strict=True)],
            }
        )
        before = counts
    return rows


@functools.cache
def of(name):
    return watched(ALL[name])


def late_share(rows, index):
    late = sum(row["late"][index] for row in rows)
    of = sum(row["late"][index + 1] for row in rows)
    return late / of if of else 0.0


def test_there_are_enough_of_both_and_they_share_nothing():
    assert len(TUNING) >= 14
    assert len(JUDGING) >= 14
    for regime in TUNING.values():
        for other in JUDGING.values():
            assert regime.seed != other.seed
            assert regime.settings != other.settings
            assert not set(regime.streams) & set(other.streams)
    for side in (TUNING, JUDGING):
        labels = {truth.label for regime in side.values() for _, truth in regime.truths if truth is not None}
        assert labels == set(Label)
        reasons = {truth.reason for regime in side.values() for _, truth in regime.truths if truth is not None}
        assert reasons >= {"PrefillBound", "DecodeBound", "Adapters", "TokenBudget"}
        assert sum(regime.trap for regime in side.values()) >= 5


def test_a_regime_plays_the_same_bytes_every_time():
    regime = replace(TUNING["kv-short"], scrapes=4, warm_up=20.0)
    first, second = list(play(regime)), list(play(regime))
    assert first == second
    assert [scrape.time for scrape in first] == [regimes.play(regime).__next__().time + 5 * i for i in range(4)]


def test_a_window_in_which_the_state_changes_has_no_label():
    regime = TUNING["batch-limit-begins"]
    assert regime.truth(55.0).label is Label.HEALTHY
    assert regime.truth(60.0) is None
    assert regime.truth(75.0) is None
    assert regime.truth(80.0).label is Label.BATCH


@pytest.mark.parametrize("name", LIMITED)
def test_lifting_the_limit_that_the_label_names_ends_the_suffering(name):
    regime = ALL[name]
    suffering = [row for row in of(name) if row["truth"] and row["truth"].label is not Label.HEALTHY]
    cured = [row for row in watched(regime.cured()) if row["truth"] and row["truth"].label is not Label.HEALTHY]
    waits = mean(row["waiting"] for row in suffering)
    queues = waits > max(3, 0.5 * mean(row["running"] for row in suffering))
    late = [index for index in (0, 2) if late_share(suffering, index) > 0.3]
    assert queues or late
    if queues:
        assert mean(row["waiting"] for row in cured) < 0.5 * waits
    for index in late:
        assert late_share(cured, index) < 0.5 * late_share(suffering, index)


@pytest.mark.parametrize(
    "name", [name for name, one in ALL.items() if any(truth == regimes.Truth(Label.HEALTHY) for _, truth in one.truths)]
)
def test_healthy_windows_meet_the_objectives_and_hardly_wait(name):
    rows = [row for row in of(name) if row["truth"] and row["truth"].label is Label.HEALTHY]
    assert late_share(rows[1:], 0) <= 0.05
    assert late_share(rows[1:], 2) <= 0.05
    queued = [row["waiting"] > max(3, 0.1 * row["running"]) for row in rows]
    assert mean(queued) <= 0.2
    assert not any(left and right for left, right in itertools.pairwise(queued))
    assert rows[-1]["preempted"] == rows[0]["preempted"]


@pytest.mark.parametrize("name", ["healthy-prefix-cache-full", "healthy-conversations-cached"])
def test_cached_prefixes_fill_the_pool_and_do_not_count_as_use(name):
    rows = of(name)
    assert all(row["usage"] + row["cached"] > 0.95 for row in rows)
    assert max(row["usage"] for row in rows) < 0.5


@pytest.mark.parametrize("name", ["healthy-high-kv", "healthy-full-pool"])
def test_a_full_pool_without_waits(name):
    rows = of(name)
    assert mean(row["usage"] for row in rows) > 0.8


@pytest.mark.parametrize("name", ["healthy-bursts", "healthy-hourly-jobs"])
def test_bursts_are_seen_and_pass(name):
    waiting = [row["waiting"] for row in of(name)]
    assert max(waiting) > 20


@pytest.mark.parametrize("name", ["adapter-slots", "adapters-many", "remote-cache-slow", "remote-link-degrades"])
def test_deferred_waits_are_told_apart_on_the_page(name):
    scrape = list(play(ALL[name]))[-1]
    assert 0.6 * total(scrape, WAITING) < total(scrape, DEFERRED) <= total(scrape, WAITING)


@pytest.mark.parametrize(
    ("name", "busy"), [("host-starved", False), ("host-becomes-slow", False), ("prefill-bound", True)]
)
def test_gpu_facts_tell_a_starved_gpu_from_a_busy_one(name, busy):
    scrape = list(play(ALL[name]))[-1]
    facts = scrape.gpus["replica-0"]
    assert facts.utilization_ratio > 0.9
    assert (facts.sm_active_ratio > 0.85) is busy
    assert (facts.sm_active_ratio < 0.2) is not busy
    assert (facts.host_cpu_ratio > 0.9) is not busy
    assert total(scrape, RUNNING) > 0


def test_loading_replicas_are_counted_and_have_no_page():
    scrapes = list(play(JUDGING["cold-start-rollout"]))
    assert scrapes[0].starting_replicas == 4
    assert len(scrapes[0].pages) == len(scrapes[0].gpus) == 2
    assert scrapes[-1].starting_replicas == 0
    assert len(scrapes[-1].pages) == 6
    assert total(scrapes[0], WAITING) > total(scrapes[-1], WAITING)
