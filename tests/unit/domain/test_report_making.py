"""A made-up fleet's report: the truths are found, nothing healthy is called wasteful, money adds up."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from optiinfra.domain.cost import PriceList
from optiinfra.domain.evidence import Bottleneck, RecommendationType
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.history import FleetHistory, Lack, Missing
from optiinfra.domain.report.making import Told, compose, prepare
from optiinfra.domain.report.options import Options
from optiinfra.domain.report.pricing import Prices
from optiinfra.domain.report.scaling import play
from tests.unit.domain import report_fleet as fleet

DAYS = 1.5
"""Long enough for a daily wave and for a model to be called silent."""


HISTORY = fleet.fleet(DAYS)


@pytest.fixture(scope="module")
def played():
    """What the scaler makes of the made-up fleet; it takes seconds, and prices do not change it."""
    return play(prepare(HISTORY, fleet.options()).cases)


def made(history, played, options=None):
    prepared = prepare(history, options or fleet.options())
    queries = {model.key: "sum(work)" for model in history.models}
    return compose(prepared, played, Told(made=fleet.END, server="http://prometheus.example:9090", queries=queries))


@pytest.fixture(scope="module")
def whole(played):
    return made(HISTORY, played)


def about(report, subject, kind=None):
    return [one for one in report.opportunities if one.subject == subject and kind in {None, one.type}]


def model(report, key):
    return next(one for one in report.models if one.key == key)


def test_too_many_replicas_are_found_with_what_they_cost(whole):
    (found,) = about(whole.report, "inference/chat", RecommendationType.REPLICAS)
    replay = model(whole.report, "inference/chat").replay
    assert 3.0 < replay.ours.replica_hours / replay.hours < 7.0
    assert replay.hours == pytest.approx(0.2 * 24.0, rel=0.02)
    assert 3.0 * DAYS * 24.0 < found.saved.gpu_hours < 6.0 * DAYS * 24.0
    assert found.saved.money == pytest.approx(found.saved.gpu_hours * fleet.GPU_HOUR)
    assert found.saved.per_month == pytest.approx(found.saved.money / (DAYS * 24.0) * 730.0)
    assert not found.worse


def test_a_healthy_model_is_not_called_wasteful(whole):
    spoken = about(whole.report, "inference/steady")
    assert {one.type for one in spoken} <= {RecommendationType.RESOURCES}
    assert all(one.saved.gpu_hours == 0.0 for one in spoken)


def test_a_model_that_nobody_asks_is_proposed_to_go_with_all_its_gpus(whole):
    found = about(whole.report, "inference/silent", RecommendationType.IDLE_GPU)
    assert [one.reason for one in found] == ["NoRequests"]
    assert found[0].saved.counted_gpu_hours == pytest.approx(3.0 * DAYS * 24.0)


def test_a_full_batch_is_found_with_the_setting_to_change(whole):
    crowded = model(whole.report, "inference/crowded")
    assert crowded.limits[0].bottleneck is Bottleneck.BATCH
    (found,) = about(whole.report, "inference/crowded", RecommendationType.BATCH_SIZE)
    assert found.setting == "--max-num-seqs"
    assert float(found.proposed) > 64.0


def test_what_would_cost_more_is_said_as_plainly(whole):
    (worse,) = [one for one in whole.report.worse if one.subject == "inference/crowded"]
    assert worse.extra_gpu_hours > 0.0
    assert worse.late_share_before == pytest.approx(1.0)
    assert worse.late_share_after < 0.1
    assert "more would have run" in worse.message


def test_idle_gpus_of_others_are_told_by_their_holder(whole):
    (found,) = about(whole.report, "lab/notebook")
    assert found.saved.counted_gpu_hours == pytest.approx(DAYS * 24.0, rel=0.02)


def test_nodes_that_could_go_are_other_gpus_each(whole):
    found = {one.subject: one for one in whole.report.opportunities if one.type is RecommendationType.CONSOLIDATION}
    assert "node-d" in found
    assert sum(one.saved.counted_gpu_hours for one in found.values()) > found["node-d"].saved.counted_gpu_hours > 0.0


def test_only_what_a_careful_operator_would_free_is_counted(whole):
    (found,) = about(whole.report, "inference/chat", RecommendationType.REPLICAS)
    replay = model(whole.report, "inference/chat").replay
    careful = 8.0 - np.ceil(replay.load_mean / 0.7)
    assert found.saved.gpu_hours <= (careful + 3.0) * DAYS * 24.0
    assert replay.ours.replica_hours / replay.hours < 8.0


def test_the_sum_counts_no_gpu_hour_twice(whole):
    report = whole.report
    total = report.total
    assert total.cost == pytest.approx(32.0 * DAYS * 24.0 * fleet.GPU_HOUR)
    assert 0.0 < total.saved <= total.cost
    assert total.saved == pytest.approx(sum(one.saved.money for one in report.opportunities))
    assert total.gpu_hours <= 32.0 * DAYS * 24.0 + 1e-6


def test_the_plain_autoscaler_frees_hardly_anything_that_the_scaler_has_not(whole):
    plain = about(whole.report, "inference/chat", RecommendationType.HPA_TARGET)
    assert all(one.saved.counted_gpu_hours <= one.saved.gpu_hours for one in plain)
    own = about(whole.report, "inference/chat", RecommendationType.REPLICAS)[0]
    assert all(one.saved.counted_gpu_hours < 0.5 * own.saved.counted_gpu_hours for one in plain)


def test_proposals_are_ranked_by_money(whole):
    money = [one.saved.money for one in whole.report.opportunities]
    assert money == sorted(money, reverse=True)


def test_every_number_names_questions_that_were_asked(whole):
    known = {one.name for one in whole.report.questions}
    fleet_ = whole.report.fleet
    named = [*fleet_.cost.sources, *fleet_.cost_per_million_tokens.sources]
    named += [name for one in whole.report.opportunities for name in one.sources]
    named += [name for one in whole.report.models for name in one.cost.sources]
    assert named
    assert set(named) <= known
    assert fleet_.gpus.sources == ("dcgm.utilization",)
    assert fleet_.gpus_held.sources == ("dcgm.holders",)


def test_a_million_tokens_cost_all_that_was_paid(whole):
    fleet_ = whole.report.fleet
    tokens = fleet_.prompt_tokens.value + fleet_.generation_tokens.value
    assert fleet_.cost_per_million_tokens.value == pytest.approx(fleet_.cost.value / tokens * 1e6)


def test_without_a_price_gpu_hours_stay_and_money_is_unknown(played):
    found = made(HISTORY, played, Options(replay_days=0.2)).report
    assert isinstance(found.total.saved, Unknown)
    assert "--gpu-hour" in found.total.saved.detail
    assert found.total.gpu_hours > 0.0
    assert found.total.unpriced_gpu_hours == pytest.approx(found.total.gpu_hours)


def test_reserved_gpus_are_freed_capacity(played):
    prices = Prices(flat=PriceList(gpu_hour=fleet.GPU_HOUR), reserved={"H100": 32.0})
    found = made(HISTORY, played, fleet.options(prices=prices)).report
    assert found.total.saved == 0.0
    assert found.total.unpaid_gpu_hours == pytest.approx(found.total.gpu_hours)


def test_a_model_without_token_counters_is_unknown_and_says_why(played):
    history = HISTORY
    blind = Unknown(UnknownReason.NOT_MEASURED, "no token counters")
    models = tuple(
        replace(one, load=replace(one.load, work=blind, prompt_tokens=blind, generation_tokens=blind))
        if one.workload == "chat"
        else one
        for one in history.models
    )
    found = model(made(replace(history, models=models), played).report, "inference/chat")
    assert found.replay == blind
    assert found.prompt_tokens.value == blind
    assert isinstance(found.cost_per_million_tokens.value, Unknown)
    assert found.cost.value == pytest.approx(8.0 * DAYS * 24.0 * fleet.GPU_HOUR)


def test_gaps_are_neither_work_nor_savings():
    times = fleet.times_of(0.1)
    one = fleet.model(times, "chat", busy=np.full(len(times), 1.0), replicas=4)
    hole = slice(10, 15)
    work = one.load.work.copy()
    work[hole] = np.nan
    history = fleet.alone(times, replace(one, load=replace(one.load, work=work)))
    prepared = prepare(history, fleet.options())
    found = model(made(history, play(prepared.cases)).report, "inference/chat").replay
    assert found.hours == pytest.approx((len(times) - 5) * fleet.STEP_S / 3600.0)
    assert found.ran.replica_hours == pytest.approx(4.0 * found.hours)


def test_an_empty_fleet_gives_an_empty_report_with_the_reason():
    nothing = Missing(Lack.NOTHING, "everything", "no engine and no GPU is measured", "Scrape them")
    times = fleet.times_of(1.0)
    found = made(FleetHistory(times, fleet.STEP_S, (), (), (), (), (nothing,)), ()).report
    assert found.models == found.opportunities == ()
    assert found.total.saved == 0.0
    assert [gap.code for gap in found.gaps] == ["NothingFound"]


def test_patches_are_yaml_with_the_evidence_on_top(whole):
    files = {one.file: one.text for one in whole.patches}
    assert {"inference-chat-scaling.yaml", "inference-chat-autoscaler.yaml", "inference-silent-idle.yaml"} <= set(files)
    for name, text in files.items():
        assert text.startswith("# "), name
        documents = list(yaml.safe_load_all(text))
        assert len(documents) == 1, name
    silent = yaml.safe_load(files["inference-silent-idle.yaml"])
    assert silent["spec"] == {"replicas": 0}
    scaled = yaml.safe_load(files["inference-chat-autoscaler.yaml"])
    assert scaled["kind"] == "ScaledObject"
    assert scaled["spec"]["triggers"][0]["metadata"]["query"] == "sum(work)"
    flag = yaml.safe_load(files["inference-crowded-engine-max-num-seqs.yaml"])
    assert flag[0]["op"] == "add"
    assert flag[0]["value"].startswith("--max-num-seqs=")


def test_each_patch_belongs_to_a_proposal(whole):
    named = {one.patch: one.id for one in whole.report.opportunities if one.patch}
    assert {one.file: one.opportunity for one in whole.patches} == named
