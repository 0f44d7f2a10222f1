"""`optiinfra report`, as users run it, on a real Prometheus that holds a simulated fleet whose truth is known.

Three models over six hours in Debian's Prometheus are part of the suite; their whole day, and 14 days of 40 models on
200 GPUs in Prometheus 3 and VictoriaMetrics with KRR's queries beside it, as `python -m bench.report` runs them, belong
to the long suite (`make soak`). What is needed of time and memory is the bench's business: no clock judges here.
"""

import json
import shutil
from collections import defaultdict

import pytest

from bench.report import measure, results, run_report
from bench.report_truth import judge
from hack.binaries.catalogue import architecture
from hack.binaries.debian import PACKAGES
from hack.prometheus.loaded import Loaded
from optiinfra.domain.report.proposals import SILENT_S
from optiinfra_sim.history import every_series
from optiinfra_sim.history_fleet import STEP_S
from optiinfra_sim.history_models import Label

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None and architecture() not in PACKAGES["prometheus"].sha256,
    reason=f"prometheus is not on the PATH, and no package is pinned for {architecture()}",
)


@pytest.fixture(scope="module", params=["brief", pytest.param("tiny", marks=pytest.mark.soak)])
def loaded(request):
    with Loaded("debian", fleet=request.param) as one:
        yield one


@pytest.fixture(scope="module")
def ran(loaded):
    return run_report(loaded.server, days=len(loaded.fleet.times) * STEP_S / 86_400.0)


def long_enough(loaded):
    """Whether a model without a request may be proposed to be taken away: six hours are a night, and no proof."""
    return len(loaded.fleet.times) * STEP_S >= SILENT_S


def test_the_server_holds_what_was_played(loaded):
    end = f"{loaded.fleet.times[-1]:.0f}"
    played = defaultdict(list)
    for one in every_series(loaded.fleet):
        played[one.name].append(len(one.values))
    for name in ("optiinfra_simulated", "vllm:num_requests_running", "DCGM_FI_DEV_GPU_UTIL", "kube_pod_info"):
        query = f"sum(count_over_time({name}[2d]))"
        counted = loaded.server.ask("/api/v1/query", query=query, time=end)["result"][0]["value"][1]
        assert int(counted) == sum(played[name]), name
    said = loaded.server.ask("/api/v1/query", query="min(optiinfra_simulated)", time=end)
    assert said["result"][0]["value"][1] == "1"


def test_each_truth_is_found_and_the_healthy_model_is_left_in_peace(ran, loaded):
    judged = judge(ran.document, loaded.truth)
    assert {one.label: one.found for one in judged.verdicts} == {
        Label.IDLE: long_enough(loaded),
        Label.OVER_PROVISIONED: True,
        Label.HEALTHY: True,
    }, "\n".join(judged.lines())


def test_the_money_is_what_was_true(ran, loaded):
    judged = judge(ran.document, loaded.truth)
    assert abs(judged.cost_off) < 0.05
    assert judged.model_cost_off < 0.05
    assert judged.savings_over < 0.05
    (idle,) = [one for one in judged.verdicts if one.label is Label.IDLE]
    assert idle.freed_gpu_hours == pytest.approx(idle.gpu_hours if long_enough(loaded) else 0.0, rel=0.05)


def test_it_says_how_much_it_read_and_that_it_was_simulated(ran):
    assert ran.document["simulated"] is True
    assert ran.document["samples"] > 0
    assert all(one["promql"] for one in ran.document["questions"])
    json.dumps(ran.document, allow_nan=False)


@pytest.mark.soak
@pytest.mark.parametrize("server", ["prometheus", "victoria-metrics"])
def test_the_whole_fleet(server, figures):
    one = measure(server, fleet="full", seed=1, live=True, krr=0)
    for result in results(one):
        figures.add("The day-0 report on real servers", result.name, result.value, result.unit)
    assert one.judged.recall >= 0.95, "\n".join(one.judged.lines())
    assert not one.judged.wrongly
    assert abs(one.judged.cost_off) < 0.05
    assert one.judged.model_cost_off < 0.05
    assert one.judged.savings_over < 0.05
    assert one.krr is not None
    assert one.krr.failed == 0
