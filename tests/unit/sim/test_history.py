"""A played past against the engine it claims to follow, and against what a past must be."""

import io
import json
import random
import struct
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import EngineError, TraceError
from optiinfra_sim.history import ballast, every_series, truth_document
from optiinfra_sim.history_engine import capacity, normal_tail, play
from optiinfra_sim.history_fleet import STEP_S, build
from optiinfra_sim.history_models import FLEETS, Label, plan
from optiinfra_sim.history_series import (
    Series,
    end_columns,
    json_lines,
    page,
    series,
    windows,
    write_columns,
    write_open_metrics,
)
from optiinfra_sim.history_traffic import services, traffic
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineKind, EngineSettings

END = 1_795_334_280.0
DAY = 86_400.0
PLAIN = EngineSettings(prefix_hit_share=0.2)


@pytest.fixture(scope="module")
def tiny():
    return build(plan("tiny"), end=END)


@pytest.fixture(scope="module")
def told(tiny):
    return list(every_series(tiny))


def live(settings, *, rate, prompt, output, seconds=360, warm=120):
    """What the engine itself shows under Poisson arrivals: means over time."""
    draw = random.Random(7)
    engine = Engine(settings=settings)
    at, number, looks = 0.0, 0, []
    arrivals = []
    while at < seconds:
        at += draw.expovariate(rate)
        arrivals.append(at)
    for now in range(1, seconds + 1):
        while number < len(arrivals) and arrivals[number] <= now:
            lengths = (max(1, int(draw.gammavariate(4, mean / 4))) for mean in (prompt, output))
            engine.submit(Request(number, arrivals[number], *lengths))
            number += 1
        engine.advance(to=float(now))
        if now == warm:
            before = engine.metrics.busy_seconds, engine.metrics.generation_tokens, engine.metrics.sm_seconds
        if now >= warm:
            looks.append((engine.running, engine.kv_usage))
    metrics, span = engine.metrics, seconds - warm
    running, usage = np.mean(looks, axis=0)
    return {
        "running": running,
        "kv": usage,
        "busy": (metrics.busy_seconds - before[0]) / span,
        "tokens": (metrics.generation_tokens - before[1]) / span,
        "sm": (metrics.sm_seconds - before[2]) / span,
        "gap": metrics.inter_token_latency.sum / metrics.inter_token_latency.count,
    }


@pytest.mark.parametrize(
    ("settings", "prompt", "output", "share"),
    [
        (PLAIN, 1040, 160, 0.05),
        (PLAIN, 1040, 160, 0.7),
        (replace(PLAIN, kind=EngineKind.SGLANG), 1040, 160, 0.7),
        (replace(PLAIN, kind=EngineKind.TGI), 1040, 160, 0.3),
        (replace(PLAIN, max_num_seqs=24), 600, 300, 1.15),
        (replace(PLAIN, num_blocks=4000), 1500, 600, 0.7),
        (replace(PLAIN, num_blocks=4000), 1500, 600, 1.15),
    ],
    ids=["idling", "busy", "sglang", "tgi", "batch-bound", "filling", "kv-short"],
)
def test_a_course_is_what_the_engine_itself_comes_to(settings, prompt, output, share):
    one = np.ones(20)
    lengths = {"prompt": prompt * one, "output": output * one}
    can = capacity(settings, **lengths, computed=0.8 * prompt * one)
    rate = float(can.requests_per_s[0]) * share
    course = play(settings, arrived=rate * one, **lengths, step_s=60.0)
    real = live(settings, rate=rate, prompt=prompt, output=output)
    held = course.batch[-1] * course.tokens_a_request[-1] / (settings.usable_blocks * settings.block_size)
    assert course.batch[-1] == pytest.approx(real["running"], rel=0.15)
    assert held == pytest.approx(real["kv"], rel=0.15, abs=0.01)
    assert course.busy[-1] == pytest.approx(real["busy"], abs=0.05)
    assert course.sm_active[-1] == pytest.approx(real["sm"], abs=0.06)
    assert course.served[-1] * output == pytest.approx(real["tokens"], rel=0.1)
    assert course.step_s[-1] == pytest.approx(real["gap"], rel=0.1)
    assert (course.queue[-1] > 0) == (share > 1)


def test_what_arrives_is_served_waits_or_gives_up():
    one = np.ones(200)
    lengths = {"prompt": 600 * one, "output": 300 * one}
    settings = replace(PLAIN, max_num_seqs=24)
    most = float(capacity(settings, **lengths, computed=480 * one).requests_per_s[0])
    arrived = most * np.where((np.arange(200) >= 50) & (np.arange(200) < 80), 1.6, 0.5)
    course = play(settings, arrived=arrived, **lengths, step_s=60.0)
    assert course.queue[:50].max() == 0
    assert course.aborted[50:80].max() > 0
    assert course.queue[-1] == 0
    gone = course.served.sum() + course.aborted.sum()
    assert gone == pytest.approx(arrived.sum())
    assert (course.served <= most * (1 + 1e-9)).all()


def test_the_normal_tail_is_close_enough():
    assert normal_tail(np.array([0.0, 1.0, 1.959964, -1.0])) == pytest.approx(
        [0.5, 0.158655, 0.025, 0.841345], abs=3e-4
    )


def test_traffic_is_the_source_around_its_mean():
    times = np.arange(0.0, 7 * DAY, 60.0)
    one = traffic(service="m-large", times=times, offset_s=0.0, lengths=(1000.0, 200.0), draw=np.random.default_rng(1))
    assert one.requests_per_s.mean() == pytest.approx(1.0)
    source = services()["m-large"].requests_per_s[: 7 * 144]
    hourly = one.requests_per_s.reshape(-1, 60).mean(axis=1)
    assert np.corrcoef(hourly, source.reshape(-1, 6).mean(axis=1))[0, 1] > 0.9
    assert one.prompt_tokens.mean() == pytest.approx(1000.0, rel=0.1)
    with pytest.raises(TraceError, match="no service"):
        traffic(service="none", times=times, offset_s=0.0, lengths=(1.0, 1.0), draw=np.random.default_rng(1))


@pytest.mark.parametrize("name", FLEETS)
def test_no_gpu_is_held_twice_and_pods_stay_on_one_node(name):
    fleet = build(plan(name), end=END)
    held = defaultdict(lambda: np.zeros(len(fleet.times), dtype=int))
    for pod in fleet.pods:
        assert len({gpu.node for gpu in pod.gpus}) == 1
        assert len(pod.gpus) == pod.model.plan.size.gpus
        for gpu in pod.gpus:
            held[gpu][pod.first : pod.last] += 1
    assert max(one.max() for one in held.values()) == 1
    for model in fleet.models:
        own = [pod for pod in fleet.pods if pod.model is model]
        assert len({pod.name for pod in own}) == len(own)
        total = np.zeros(len(fleet.times))
        for pod in own:
            total[pod.first : pod.last] += 1
        assert (total == model.held).all()


def test_the_full_fleet_is_what_is_promised():
    fleet = build(plan("full"), end=END)
    assert len(fleet.models) == 40
    assert len(fleet.gpus) == 200
    assert fleet.times[-1] - fleet.times[0] == pytest.approx(14 * DAY, abs=STEP_S)
    assert {one.label for one in fleet.truths()} == set(Label)
    assert {model.plan.settings.kind for model in fleet.models} == set(EngineKind)
    for model, truth in zip(fleet.models, fleet.truths(), strict=True):
        assert 0 <= truth.least_gpu_hours <= truth.needed_gpu_hours <= truth.gpu_hours
        course = model.course
        crowded = float((course.queue > 0).mean())
        if truth.label is Label.IDLE:
            assert course.served.sum() == 0
            assert truth.avoidable_gpu_hours == truth.gpu_hours
        elif truth.label is Label.OVER_PROVISIONED:
            assert truth.avoidable_gpu_hours > 0.4 * truth.gpu_hours
            assert crowded == 0
        elif truth.label is Label.HEALTHY:
            assert truth.avoidable_gpu_hours < 0.15 * truth.gpu_hours
            assert crowded < 0.03
        else:
            assert crowded > 0.05
            bound_by_pool = float(course.limit.mean()) < model.plan.settings.max_num_seqs - 1
            assert bound_by_pool == (truth.label is Label.KV_SHORT)


def test_a_past_is_the_same_again_and_another_with_another_seed(tiny):
    again, other = (build(plan("tiny"), end=END, seed=seed) for seed in (1, 2))
    assert [pod.name for pod in again.pods] == [pod.name for pod in tiny.pods]
    assert (again.models[1].course.served == tiny.models[1].course.served).all()
    assert not (other.models[1].course.served == tiny.models[1].course.served).all()
    with pytest.raises(EngineError, match="no fleet"):
        plan("none")


def test_a_fleet_that_does_not_fit_is_refused():
    with pytest.raises(EngineError, match="no room for"):
        build(replace(plan("tiny"), nodes=((0, 0), (0, 0))), end=END)


def test_series_are_told_once_and_counters_never_fall(told):
    ends = defaultdict(int)  # a GPU that is free again has the series it had before
    for one in told:
        assert one.first >= ends[one.labels], one.labels
        ends[one.labels] = one.first + len(one.values) * one.stride
    for one in told:
        assert np.isfinite(one.values).all(), one.labels
        if one.name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert (np.diff(one.values) >= 0).all(), one.labels
    assert all((one.values == 1).all() for one in told if one.name == "optiinfra_simulated")


def test_buckets_hold_each_other(told):
    by_series = defaultdict(list)
    for one in told:
        labels = dict(one.labels)
        if one.name == "vllm:time_to_first_token_seconds_bucket":
            by_series[labels["pod"]].append((float(labels["le"]), one.values))
    assert by_series
    for buckets in by_series.values():
        ordered = np.array([values for _, values in sorted(buckets, key=lambda one: one[0])])
        assert (np.diff(ordered, axis=0) >= 0).all()


def test_an_idle_model_says_nothing_and_its_gpus_do_nothing(tiny, told):
    idle = next(model for model in tiny.models if model.plan.label is Label.IDLE)
    own = [one for one in told if dict(one.labels).get("pod", "").startswith(idle.replica_set)]
    for name in ("vllm:generation_tokens_total", "vllm:num_requests_running", "DCGM_FI_DEV_GPU_UTIL"):
        values = [one.values for one in own if one.name == name]
        assert len(values) == 2
        assert all((one == 0).all() for one in values), name
    memory = next(one.values for one in own if one.name == "DCGM_FI_DEV_FB_USED")
    assert memory[-1] > 70 * 1024  # the model stays loaded


def test_a_gpu_tells_its_holder_in_each_dialect(tiny):
    fleet = build(plan("full"), end=END)
    del tiny
    from optiinfra_sim.history_gpus import gpu_series

    heads = {tuple(sorted(dict(one.labels))) for one in gpu_series(fleet) if "GPU_UTIL" in one.name}
    assert any("pod" in head and "Hostname" in head and "exported_pod" not in head for head in heads)
    assert any("exported_pod" in head for head in heads)
    assert any("hostname" in head and "pod" in head for head in heads)
    assert any("hostname" in head and "pod" not in head for head in heads)


def test_windows_end_where_blocks_do():
    times = 1_000_000.0 + 60.0 * np.arange(3000)
    cut = windows(times, width_s=DAY)
    assert [begin for begin, _ in cut[1:]] == [end for _, end in cut[:-1]]
    assert (cut[0][0], cut[-1][1]) == (0, 3000)
    assert all(times[begin] % DAY < 60.0 for begin, _ in cut[1:])


def one_series(count=3000, *, first=0, stride=1):
    return series("a_total", {"x": "1", "none": ""}, np.arange(float(count)), first=first, stride=stride)


@pytest.mark.parametrize(("first", "count", "stride"), [(0, 3000, 1), (1700, 40, 1), (7, 49, 60), (2999, 1, 60)])
def test_every_form_tells_the_same_samples(tmp_path, first, count, stride):
    times = 1_000_000.0 + 60.0 * np.arange(3000)
    made = one_series(count, first=first, stride=stride)
    expected = [(float(times[first + stride * n]), float(n)) for n in range(count)]
    paths, written = write_open_metrics([made], tmp_path, times=times, width_s=DAY)
    lines = [line for path in paths for line in path.read_text().splitlines() if line != "# EOF"]
    assert [(float(line.split()[2]), float(line.split()[1])) for line in lines] == expected
    assert all(line.startswith('a_total{x="1"} ') for line in lines)
    assert all(path.read_text().endswith("# EOF\n") for path in paths)
    assert written.samples == count
    (line,) = json_lines([made], times=times)
    document = json.loads(line)
    assert document["metric"] == {"__name__": "a_total", "x": "1"}
    told = [(stamp / 1000, value) for stamp, value in zip(document["timestamps"], document["values"], strict=True)]
    assert told == expected
    files = [io.BytesIO() for _ in windows(times, width_s=DAY)]
    write_columns([made], files, times=times, width_s=DAY)
    end_columns(files[-1])
    assert list(columns(b"".join(file.getvalue() for file in files))) == expected


def columns(content):
    """Read what `prometheus-backfill` reads."""
    at = 0

    def numbers(count):
        nonlocal at
        at += 4 * count
        return struct.unpack_from(f"<{count}I", content, at - 4 * count)

    while points := numbers(1)[0]:
        times = np.frombuffer(content, "<i8", points, at) / 1000
        at += 8 * points
        while size := numbers(1)[0]:
            assert content[at : at + size] == b"__name__\0a_total\0x\x001\0"
            at += size
            first, count, stride = numbers(3)
            values = np.frombuffer(content, "<f8", count, at)
            at += 8 * count
            yield from zip(times[first::stride][:count].tolist(), values.tolist(), strict=True)


def test_a_page_has_the_newest_values(tiny):
    text = page([Series((("__name__", "a"), ("b", "c")), 0, np.array([1.0, 2.5]))])
    assert text == b'a{b="c"} 2.5\n'
    names = {one.name for one in ballast(tiny)}
    assert not names & {one.name for one in every_series(tiny)}


def test_the_truth_document_is_json_and_adds_up(tiny):
    document = json.loads(json.dumps(truth_document(tiny)))
    assert document["simulated"] is True
    assert document["gpu_hours"] == pytest.approx(16 * 24)
    assert sum(one["gpu_hours"] for one in document["models"]) < document["gpu_hours"]
    assert document["cost"] == pytest.approx(document["gpu_hours"] * document["gpu_hour"])
