"""The second judge of scaling decisions: queues in closed form, replicas that start and drain, and no look ahead."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from bench import scaling_judge
from bench.scaling_judge_cases import Case, Span
from bench.scaling_judge_drawn import _arrivals, folder
from bench.scaling_judge_engines import REGIMES, Capacity, measured, quantile
from bench.scaling_judge_fleet import Look, Replicas
from bench.scaling_judge_operator import operator_paths
from bench.scaling_judge_requests import Requests, azure, mooncake
from bench.scaling_judge_rules import Decider, Gauges, JudgedKeda, JudgedWvaV1, deciders
from bench.scaling_judge_runs import Simulated, judge
from bench.traces import TraceError
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, Fleet, View
from optiinfra_sim.histogram import Histogram
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings

SERVICE_S = 2.0
ONE_BY_ONE = EngineSettings(
    max_num_seqs=1,
    max_num_batched_tokens=1000,
    max_model_len=1000,
    num_blocks=200,
    step_seconds=SERVICE_S,
    sequence_seconds=0.0,
    prefill_token_seconds=0.0,
    prefix_caching=False,
)
"""One request at a time, each in one step: the single server of textbooks."""
WORK = 104.0
CAPACITY = Capacity(WORK / SERVICE_S, 1.0, 0.5, SERVICE_S, SERVICE_S, WORK / SERVICE_S)


def requests_at(*moments, length_s=None, output=1):
    at = np.array(moments, dtype=np.float64)
    sizes = np.ones(len(at), dtype=np.int64)
    return Requests("tiny", at, 100 * sizes, output * sizes, length_s or float(at.max(initial=0.0)) // 5 * 5 + 5)


def poisson(rate, length_s, seed=3):
    draw = np.random.default_rng(seed)
    at = np.cumsum(draw.exponential(1.0 / rate, int(rate * length_s * 1.5) + 20))
    return requests_at(*at[at < length_s], length_s=length_s)


def run(replicas, seconds):
    looks = []
    while replicas.now < seconds:
        looks.append(replicas.step())
    return looks


def case_of(requests, *, history=(), start_up_s=60.0, settings=ONE_BY_ONE, routing=Routing.LEAST_LOADED):
    return Case(
        name="tiny",
        regime=REGIMES["8b-l4"],
        settings=settings,
        capacity=CAPACITY,
        history=np.array(history, dtype=np.float64),
        requests=requests,
        replicas=1.0,
        start_up_s=start_up_s,
        routing=routing,
    )


def fixed(number):
    return Decider("fixed", lambda _: lambda _: np.array([number]), lambda _, __: lambda _: np.array([number]))


# One replica is a single server


def test_one_replica_waits_as_lindley_says():
    requests = poisson(0.35, 3000.0)
    replicas = Replicas(ONE_BY_ONE, requests, start_up_s=60.0)
    replicas.begin(1)
    run(replicas, 3300.0)
    waits = [0.0]
    for gap in np.diff(requests.at):
        waits.append(max(0.0, waits[-1] + SERVICE_S - gap))
    assert replicas.first_token == pytest.approx(np.array(waits) + SERVICE_S, abs=1e-6)


def test_the_mean_wait_is_that_of_m_d_1():
    load = 0.6
    requests = poisson(load / SERVICE_S, 40_000.0)
    replicas = Replicas(ONE_BY_ONE, requests, start_up_s=60.0)
    replicas.begin(1)
    run(replicas, 40_200.0)
    expected = SERVICE_S + load * SERVICE_S / (2.0 * (1.0 - load))
    assert float(replicas.first_token.mean()) == pytest.approx(expected, rel=0.08)


def test_two_replicas_share_by_the_fewest_requests():
    replicas = Replicas(ONE_BY_ONE, requests_at(0.0, 0.1, 0.2, 0.3), start_up_s=60.0)
    replicas.begin(2)
    run(replicas, 10.0)
    assert replicas.first_token == pytest.approx([2.0, 2.0, 3.8, 3.8])


def test_in_turn_ignores_who_is_busy():
    # The first one is long: by turns every second request waits behind it.
    long = replace(requests_at(0.0, 0.1, 0.2), output=np.array([4, 1, 1]))
    replicas = Replicas(ONE_BY_ONE, long, start_up_s=60.0, routing=Routing.ROUND_ROBIN)
    replicas.begin(2)
    run(replicas, 20.0)
    assert replicas.first_token == pytest.approx([2.0, 2.0, 9.8])


def test_a_new_replica_takes_over_a_queue_only_from_a_gateway():
    first_tokens = []
    for gateway in (False, True):
        replicas = Replicas(ONE_BY_ONE, requests_at(*[0.0] * 12, length_s=100.0), start_up_s=5.0, gateway=gateway)
        replicas.begin(1)
        replicas.order(2)
        run(replicas, 50.0)
        assert replicas.finished == 12
        first_tokens.append(replicas.first_token)
    # All twelve wait at the first replica; a gateway gives the second one half of what is left after five seconds.
    assert first_tokens[0] == pytest.approx(2.0 * np.arange(1, 13))
    assert first_tokens[1].max() < 20.0


# Replicas start, drain, and are paid for


def test_a_starting_replica_is_paid_and_serves_after_its_start_up():
    replicas = Replicas(ONE_BY_ONE, requests_at(1.0, length_s=100.0), start_up_s=30.0)
    replicas.order(1)
    looks = run(replicas, 50.0)
    assert replicas.paid_s == pytest.approx(50.0)
    assert [look.serving for look in looks] == [0] * 6 + [1] * 4
    assert looks[0].waiting == 1
    assert looks[0].waiting_work == pytest.approx(WORK)
    assert replicas.first_token[0] == pytest.approx(30.0 - 1.0 + SERVICE_S)


def test_a_drained_replica_finishes_what_it_has_takes_nothing_new_and_is_paid_until_it_is_gone():
    # Nine requests before the order: four behind the second replica. Afterwards all go to the first.
    replicas = Replicas(ONE_BY_ONE, requests_at(*np.arange(8) * 0.1, 6.0, length_s=100.0), start_up_s=30.0)
    replicas.begin(2)
    run(replicas, 5.0)
    replicas.order(1)
    assert (len(replicas.serving), len(replicas.draining)) == (1, 1)
    run(replicas, 30.0)
    # Four answers of two seconds each from 0.1 on: gone at 8.1.
    assert replicas.finished == 9
    assert replicas.draining == []
    assert replicas.paid_s == pytest.approx(30.0 + 8.1)
    assert replicas.first_token[8] == pytest.approx(8.0 - 6.0 + SERVICE_S)


def test_an_idle_replica_is_gone_at_once_and_starting_ones_go_first():
    replicas = Replicas(ONE_BY_ONE, requests_at(90.0, length_s=100.0), start_up_s=30.0)
    replicas.begin(2)
    replicas.order(4)
    replicas.order(3)
    assert (len(replicas.serving), len(replicas.starting)) == (2, 1)
    replicas.order(1)
    assert (len(replicas.serving), len(replicas.starting), len(replicas.draining)) == (1, 0, 0)
    run(replicas, 10.0)
    assert replicas.paid_s == pytest.approx(10.0)


# What a decider sees


def test_nothing_of_the_future_is_in_what_a_decider_sees():
    seen = []

    def policy(view):
        later = slice(view.fleet.step, None)
        seen.append((view.fleet.load[0, later].sum(), view.fleet.backlog[0, later].sum()))
        return np.array([1])

    spying = Decider("spy", lambda _: lambda _: np.array([1]), lambda _, __: policy)
    judge(case_of(poisson(0.3, 300.0), history=[0.5] * 12), spying)
    assert len(seen) == 24
    # In the history the fluid model plays a load that is all there; afterwards nothing is ahead.
    assert set(seen[4:]) == {(0.0, 0.0)}


@pytest.mark.parametrize("rule", deciders(), ids=lambda rule: rule.name)
def test_the_same_past_has_the_same_decisions(rule):
    calm, jump = poisson(0.4, 900.0), poisson(1.2, 450.0, seed=4)
    jumped = replace(calm, at=np.sort(np.concatenate([calm.at, 450.0 + jump.at])))
    sizes = np.ones(len(jumped.at), dtype=np.int64)
    jumped = replace(jumped, prompt=100 * sizes, output=sizes)
    asked = []
    for requests in (calm, jumped):
        whole = replace(case_of(requests), history=np.full(120, 0.8))
        simulated = Simulated.of(whole, rule)
        simulated.play()
        asked.append(simulated.record.asked[0])
    # Seconds 450 on differ; the history takes 600 more, and everything is seen 15 s late.
    known = (600 + 450) // 15 + 1
    assert asked[0][:known].tolist() == asked[1][:known].tolist()
    assert asked[0].tolist() != asked[1].tolist() or rule.name.startswith(("Dynamo", "WVA v1"))


def test_measured_load_and_queue_reach_the_record_in_units_of_capacity():
    requests = requests_at(*[0.5] * 6, length_s=60.0)
    simulated = Simulated.of(case_of(requests), fixed(1))
    simulated.play()
    assert simulated.record.load[0, 0] == pytest.approx(6 * WORK / CAPACITY.work / 5.0)
    # Six of two seconds each from 0.5 on: after five seconds three wait, and the third is under way.
    assert simulated.record.backlog[0, 0] == pytest.approx(3 * SERVICE_S)
    view = View(simulated.record)
    assert view.arrivals(12) == pytest.approx([6 * SERVICE_S / 60.0 * 12 / 9])


def test_keda_sees_requests_in_flight_and_wva_the_engines_queues():
    fleet = Fleet(
        np.zeros((1, 60)),
        start_up_s=np.array([60.0]),
        initial=np.array([2]),
        minimum=np.array([1]),
        maximum=np.array([50]),
    )
    gauges = Gauges(replace(CAPACITY, in_flight=4.0), slots=8.0)
    full = Look(serving=2, starting=0, draining=0, waiting_work=0.0, waiting=10, in_flight=28, kv_use=0.4)
    gauges.looks = [full] * 6
    fleet.step = 6
    view = View(fleet)
    # 28 in flight are 7 replicas' worth; at 0.7 of it ten are asked for, at most four more at once.
    assert JudgedKeda(np.array([0.7]), gauges)(view).tolist() == [6]
    assert JudgedKeda(np.array([0.7]), gauges).metric(view).tolist() == [7.0]
    # Five wait at each replica: more than WVA's 5 - 3 of spare queue, so one more.
    assert JudgedWvaV1(gauges)(view).tolist() == [3]


def test_the_operators_path_knows_pages_and_nothing_of_the_judges_capacity():
    settings = replace(ONE_BY_ONE, max_num_seqs=8, max_num_batched_tokens=800, step_seconds=0.05, sequence_seconds=0.01)
    requests = replace(poisson(2.0, 600.0), output=np.full(len(poisson(2.0, 600.0)), 40, dtype=np.int64))
    asked, told = [], []
    for factor in (1.0, 3.0):
        case = case_of(requests, settings=settings)
        case = replace(case, capacity=replace(CAPACITY, work=CAPACITY.work * factor))
        simulated = Simulated.of(replace(case, history=np.zeros(0)), operator_paths()[1])
        simulated.record.ready = np.array([2])
        simulated.replicas.begin(2 - simulated.replicas.asked)
        simulated.play()
        asked.append(simulated.record.asked[0].tolist())
        told.append(simulated.policy.told)
    # How many begin is the judge's matter; afterwards the units of its record change nothing.
    assert asked[0] == asked[1]
    assert len(told[0]) == 39
    # 2 requests a second of 40 steps of 0.06 s and more: about six in flight.
    assert 0.2 < told[0][-1].load.replicas < 3.0
    assert not isinstance(told[0][-1].capacity.work, Unknown)


# Figures


def test_figures_of_a_fixed_number_follow_from_the_requests():
    requests = requests_at(*np.arange(0.0, 600.0, 4.0), length_s=600.0)
    case = case_of(requests)
    simulated = Simulated.of(case, fixed(2))
    simulated.play()
    found = simulated.judged("fixed", fluid=judge(case, fixed(2)).fluid)
    work = len(requests) * SERVICE_S
    # One replica serves until the first order (at once) brings the second, paid from the beginning.
    assert found.figures.cost == pytest.approx(2 * 600.0 / work)
    assert (found.figures.late10, found.figures.incidents, found.preemptions) == (0.0, 0.0, 0)
    assert found.first_token == pytest.approx((SERVICE_S,) * 3)
    assert found.requests == 150


def test_work_without_a_first_token_in_time_is_late_and_makes_an_incident():
    requests = requests_at(*[1.0] * 20, length_s=600.0)
    found = judge(case_of(requests), fixed(1))
    # Served one by one: the fifth has its first token 10 s after it came, the sixth is late.
    assert found.figures.late10 == pytest.approx(15 / 20)
    assert found.figures.incidents == pytest.approx(30 * 86_400 / 600)
    assert found.figures.worst_hour == pytest.approx(15 / 20)


def test_the_capacity_of_a_single_server_is_near_its_rate():
    shapes = requests_at(*np.arange(50.0), length_s=50.0)
    capacity = measured(replace(ONE_BY_ONE, step_seconds=4.0), shapes, seed=1, rounds=3)
    assert capacity.saturated == pytest.approx(WORK / 4.0, rel=0.03)
    assert 0.7 < capacity.work / capacity.saturated <= 1.0
    assert capacity.in_flight > 0.7


def test_quantiles_lie_on_straight_lines_within_a_bucket():
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.observe(0.5, times=10)
    histogram.observe(3.0, times=10)
    assert quantile(histogram, 0.5) == pytest.approx(1.0)
    assert quantile(histogram, 0.75) == pytest.approx(3.0)
    assert np.isnan(quantile(Histogram((1.0,)), 0.5))


def test_settings_follow_from_the_datasheet():
    settings = REGIMES["8b-l4"].settings(mean_context=1000.0, prefix_caching=False)
    assert settings.step_seconds == pytest.approx(1.1 * 16.06 / 300.0 + 0.002)
    assert settings.prefill_token_seconds == pytest.approx(2 * 8.03e9 / 60.5e12)
    assert settings.num_blocks * 16 * 131_072 < 0.92 * 22.5 * 2**30 - 16.06e9 - 2e9


# Requests


def test_requests_are_kept_and_copied_whole():
    base = requests_at(*np.arange(1000.0), length_s=1000.0)
    fewer, more = base.times(0.25, seed=1), base.times(2.5, seed=1)
    assert len(fewer) == pytest.approx(250, abs=50)
    assert len(more) == pytest.approx(2500, abs=60)
    assert set(more.prompt.tolist()) == {100}
    assert (np.diff(more.at) >= 0.0).all()
    assert more.at.max() < 1000.0
    assert base.times(1.0, seed=1).at.tolist() == base.at.tolist()
    assert base.load().sum() * 5.0 == pytest.approx(1000 * WORK)


def test_a_span_takes_less_history_of_a_short_trace_and_fewer_hours_of_a_dense_one():
    hours = requests_at(*np.arange(0.0, 36_000.0, 10.0), length_s=36_000.0)
    assert Span(7200.0, 14_400.0).within(hours) == (7200.0, 21_600.0)
    assert Span(72_000.0, 14_400.0).within(hours) == (21_600.0, 36_000.0)
    assert Span(0.0, 14_400.0, most_requests=900).within(hours) == (0.0, 7200.0)
    assert Span(0.0, 72_000.0).within(hours) == (0.0, 36_000.0)


def test_requests_beyond_the_context_are_left_out_and_told():
    some = replace(requests_at(1.0, 2.0), prompt=np.array([100, 5000]))
    left = some.within(1000)
    assert len(left) == 1
    assert "50.00% of the requests are longer than 1000" in left.note
    assert some.within(10_000) is some


def test_azure_and_mooncake_files_are_read_request_by_request(tmp_path):
    file = tmp_path / "AzureLLMInferenceTrace_conv.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:50.5,396,109\n2023-11-16 18:15:57.5,1,0\n"
    )
    found = azure(file)
    assert found.at.tolist() == [0.0, 4.0]  # the last step is partial
    assert found.work.tolist() == [374 + 4 * 44, 396 + 4 * 109]
    lines = [
        {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 3000, "input_length": 500, "output_length": 6, "hash_ids": [1]},
        {"timestamp": 9000, "input_length": 500, "output_length": 6, "hash_ids": [3]},
    ]
    packed = tmp_path / "conversation_trace.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))
    talk = mooncake(packed)
    first, second = talk.content_of(0), talk.content_of(1)
    assert first[0] == second[0]
    assert first[1][1] == 512
    copies = talk.times(2.0, seed=1)
    assert len({copies.content_of(index) for index in range(len(copies))}) == len(copies)
    assert {source.name for source in folder(tmp_path, until_s=60.0, seed=1)} == {
        "AzureLLMInferenceTrace_conv",
        "conversation_trace",
    }


def test_drawn_requests_have_the_wanted_mean_work_and_repeat(tmp_path):
    (tmp_path / "x.clients.csv").write_text(
        "t,client,rate,cv,dist,shape,scale\n0,0,40,2,Gamma,0.4,1\n600,0,80,2,Weibull,0.6,1\n600,1,3,1,Gamma,1,1\n"
    )
    (tmp_path / "x.tokens.csv").write_text(
        "t,client,input_tokens_mean,input_tokens_p50,output_tokens_mean,output_tokens_p50\n0,0,500,300,100,80\n"
    )
    (source,) = folder(tmp_path, until_s=1200.0, seed=1)
    drawn = source.make(4500.0)
    assert drawn.length_s == 1200.0
    assert float(drawn.load().mean()) == pytest.approx(4500.0, rel=0.1)
    assert drawn.at.tolist() == source.make(4500.0).at.tolist()
    # The second window has twice the first one's rate, and a little more.
    assert (drawn.at >= 600.0).sum() / (drawn.at < 600.0).sum() == pytest.approx(83 / 40, rel=0.15)
    assert "seed 1" in drawn.note
    with pytest.raises(TraceError, match="no trace known by its name"):
        folder(tmp_path / "nothing", until_s=60.0, seed=1)


@pytest.mark.parametrize("law", ["Gamma", "Weibull"])
def test_thinning_at_once_keeps_rate_and_bursts(law):
    draw = np.random.default_rng(5)
    variance = {}
    for share in (0.19, 0.21):
        counts = []
        for _ in range(60):
            times = _arrivals(draw, rate=20.0, law=law, shape=0.4, share=share)
            counts.append(np.bincount((times / 10.0).astype(np.int64), minlength=60))
        found = np.array(counts, dtype=np.float64)
        assert found.mean() == pytest.approx(20.0 * 10.0 * share, rel=0.05)
        variance[share] = found.var() / found.mean()
    # Both ways have the same dispersion, well above a Poisson stream's 1.
    assert variance[0.19] == pytest.approx(variance[0.21], rel=0.2)
    assert variance[0.19] > 1.2


# The command


def test_only_played_traces_are_rewritten(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        f"# Title\n\n{scaling_judge.BEGIN}\n\n### b\n\nold b\n\n### c\n\nold c\n\n{scaling_judge.END}\nend\n"
    )
    scaling_judge.rewrite(page, ["### b\n\nnew b\n", "### a\n\nnew a\n"])
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith(f"{scaling_judge.END}\nend\n")
    assert [text.index(part) for part in ("new a", "new b", "old c")] == sorted(
        text.index(part) for part in ("new a", "new b", "old c")
    )
    assert "old b" not in text


def test_rows_of_deciders_that_were_not_played_again_stay_where_the_case_is_the_same():
    head = "### a\n\n2026, seed 1. C = 5.\n\n| decider | cost |\n|---|---|\n"
    old = f"{head}| HPA | 1.5 |\n| ours | 1.2 |"
    assert scaling_judge.merged(old, f"{head}| ours | 1.1 |\n| other | 1.3 |").splitlines()[6:] == [
        "| HPA | 1.5 |",
        "| ours | 1.1 |",
        "| other | 1.3 |",
    ]
    changed = f"{head}| ours | 1.1 |".replace("C = 5", "C = 6")
    assert scaling_judge.merged(old, changed) == changed


def test_a_folder_without_traces_is_refused_in_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        scaling_judge.main(["--traces", str(tmp_path)])
    assert "no trace known by its name" in capsys.readouterr().err


def test_figures_of_a_folder_are_printed_as_json(tmp_path, capsys, monkeypatch):
    rows = "".join(f"2023-11-16 18:{15 + n // 12}:{n % 12 * 5:02d}.0,300,20\n" for n in range(40))
    (tmp_path / "AzureLLMInferenceTrace_tiny.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    monkeypatch.setattr("bench.scaling_judge_cases.measured", lambda *_, **__: CAPACITY)
    assert scaling_judge.main(["--traces", str(tmp_path), "--deciders", "0.7", "--replicas", "2", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["trace"] == "AzureLLMInferenceTrace_tiny"
    assert [one["decider"] for one in told["deciders"]] == ["HPA rate 0.7", "KEDA in flight 0.7"]
    assert told["deciders"][0]["figures"]["cost"] > 0.0


def test_a_rule_is_the_fluid_judges_own():
    rule = next(one for one in deciders() if one.name == "HPA rate 0.7")
    case = case_of(poisson(0.4, 300.0))
    policy = Simulated.of(case, rule).policy
    assert isinstance(policy, HpaRate)
    assert STEPS_PER_SYNC == 3
