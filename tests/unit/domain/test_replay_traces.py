"""Loads out of trace files: each format from a few hand-written rows, and files that are no traces are named."""

import gzip
import json

import numpy as np
import pytest

from bench import scaling_tables, traces
from bench.scaling_loads import made_up
from bench.scaling_runs import Case, Outcome, tuned
from optiinfra.domain.replay.figures import Figures


def servegen(folder, *, windows=6):
    clients = folder / "language_m-tiny.clients.csv.gz"
    rows = "".join(f"{window * 600},7,{1.0 + window},1.0,Gamma,1.0,1.0\n" for window in range(windows))
    clients.write_bytes(gzip.compress(f"t,client,rate,cv,dist,shape,scale\n{rows}".encode()))
    tokens = folder / "language_m-tiny.tokens.csv.gz"
    tokens.write_bytes(gzip.compress(b"t,client,input_tokens_mean,output_tokens_mean\n0,7,100,25\n"))
    return clients, tokens


def test_servegen_is_rate_times_work_at_the_middle_of_each_window(tmp_path):
    load = traces.servegen(*servegen(tmp_path))
    assert len(load.work) == 720
    # 100 + 4 x 25 a request; the middle of the third window has 3 requests a second.
    assert load.work[2 * 120 + 59 : 2 * 120 + 61].mean() == pytest.approx(600.0, rel=1e-3)
    assert load.at(8.0).mean() == pytest.approx(8.0)


def test_drawn_arrivals_keep_the_number_of_requests_and_repeat_from_their_seed(tmp_path):
    files = servegen(tmp_path)
    drawn = traces.servegen(*files, bursty_seed=3)
    smooth = traces.servegen(*files)
    assert drawn.work.sum() == pytest.approx(smooth.work.sum(), rel=0.05)
    assert drawn.work.std() > smooth.work.std()
    assert np.array_equal(drawn.work, traces.servegen(*files, bursty_seed=3).work)


def test_azure_rows_are_requests(tmp_path):
    path = tmp_path / "AzureLLMInferenceTrace_x.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:57.0000000,1,1\n"
    )
    assert traces.azure(path).work.tolist() == pytest.approx([(374 + 4 * 44 + 396 + 4 * 109) / 5.0, 0.0])


def test_burst_gpt_minutes_that_are_missing_are_zero(tmp_path):
    path = tmp_path / "burstgpt_x_minute.csv"
    path.write_text("minute,total_tokens_per_s\n0,30.0\n2,60.0\n")
    assert traces.burstgpt(path).work.tolist() == [30.0] * 12 + [0.0] * 12 + [60.0] * 12


def test_mooncake_lines_are_requests(tmp_path):
    path = tmp_path / "x_trace.jsonl"
    rows = [{"timestamp": t, "input_length": 10, "output_length": 5, "hash_ids": []} for t in (0, 2000, 11_000)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert traces.mooncake(path).work.tolist() == pytest.approx([12.0, 0.0])


def test_a_folder_knows_its_traces_by_name(tmp_path):
    servegen(tmp_path)
    (tmp_path / "mine.load.csv").write_text("time_s,work\n0,1\n5,2\n")
    assert [one.name for one in traces.folder(tmp_path)] == ["language_m-tiny", "mine"]
    with pytest.raises(traces.TraceError, match="no trace known"):
        traces.folder(tmp_path / "nowhere")


def test_files_that_are_no_traces_are_named(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(traces.TraceError, match=r"x\.csv\.gz cannot be read"):
        traces.azure(path)
    (tmp_path / "y.csv").write_text("minute,total_tokens_per_s\n")
    with pytest.raises(traces.TraceError, match="holds no rows"):
        traces.burstgpt(tmp_path / "y.csv")
    (tmp_path / "z.csv").write_text("time_s,work\n0,1\n60,1\n")
    with pytest.raises(traces.TraceError, match="equal steps of 5 s"):
        traces.load_csv(tmp_path / "z.csv")


def test_made_up_loads_repeat():
    assert all(np.array_equal(a.work, b.work) for a, b in zip(made_up(), made_up(), strict=True))


def figures(cost, late10, incidents):
    return Figures(cost=cost, late10=late10, late60=0.0, incidents=incidents, worst_hour=0.1, actions_per_day=50.0)


def outcome(rule, *numbers):
    one = figures(*numbers)
    return Outcome(rule, one, one, one)


CASE = Case("a", 8.0, 180.0)


def swept(*settings):
    return {f"HPA rate {target}": {CASE: outcome(f"HPA rate {target}", *numbers)} for target, *numbers in settings}


def test_the_tuned_hpa_keeps_both_limits():
    found = tuned(swept((0.5, 2.0, 0.0, 0), (0.7, 1.5, 0.001, 5), (0.75, 1.4, 0.004, 5), (0.8, 1.3, 0.004, 6)), CASE)
    assert found.rule == "HPA rate 0.75"
    assert tuned(swept((0.5, 2.0, 0.02, 0), (0.7, 1.5, 0.03, 5)), CASE) is None


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        ((1.0, 0.001, 0), set()),
        ((1.3, 0.001, 0), {"cost against HPA 0.5", "cost against HPA 0.7"}),
        ((1.0, 0.011, 0), {"late10"}),
        ((1.0, 0.001, 6), {"incidents"}),
    ],
)
def test_what_was_missed_is_said(ours, missed):
    plain = swept((0.5, 2.0, 0.0, 0), (0.7, 1.5, 0.001, 5))
    judged = scaling_tables.Judged((CASE,), {"a": 8.0}, {CASE: outcome("OptiInfra", *ours)}, plain, {}, {})
    lines = scaling_tables.demands(judged, replicas=8.0, start_up_s=180.0, fleet_s=1.0)
    said = {line.what.partition(": ")[2] for line in lines if line.verdict == "MISSED"}
    assert said == missed
