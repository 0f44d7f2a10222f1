"""The calibration: what is read from recordings, that one function measures both sides, and how near the model is."""

import pytest

from optiinfra_sim import calibration
from optiinfra_sim.calibration import Costs, Shape
from optiinfra_sim.errors import RecordingError
from optiinfra_sim.replay import Recording


@pytest.fixture(scope="module")
def run_a(batch_bound):
    return calibration.phases(batch_bound)


@pytest.fixture(scope="module")
def run_b(memory_bound):
    return calibration.phases(memory_bound)


@pytest.fixture(scope="module")
def costs(run_a):
    return calibration.fit(run_a)


def test_phases_are_found_by_their_load(run_a, run_b):
    assert [(phase.name, phase.clients) for phase in run_a] == [("low", 2), ("mid", 6), ("saturated", 24)]
    assert [(phase.name, phase.clients) for phase in run_b] == [("low", 2), ("saturated", 20)]


def test_recorded_figures_are_those_that_were_measured_live(run_a, run_b):
    """Section "saturation behaviour" of the measurements; the memory-bound recording is only its first part."""
    low, mid, full = (calibration.figures(phase.looks, saturated=phase.saturated) for phase in run_a)
    assert (low.running, low.kv_usage) == (pytest.approx(1.5, abs=0.1), pytest.approx(0.19, abs=0.01))
    assert low.inter_token_latency == pytest.approx(0.069, abs=0.005)
    assert (mid.running, mid.throughput) == (pytest.approx(5.0, abs=0.2), pytest.approx(61, abs=2))
    assert (full.running, full.kv_usage) == (pytest.approx(7.7, abs=0.2), pytest.approx(0.66, abs=0.01))
    memory = calibration.figures(run_b[1].looks, saturated=True)
    assert (memory.throughput, memory.preemptions) == (pytest.approx(47, abs=1), 1)


def test_requests_are_read_from_the_counters(run_a):
    low = calibration.shapes(run_a[0], unknown=())
    assert low == [Shape(122, 119), Shape(382, 123), Shape(392, 72), Shape(374, 162), Shape(379, 199)]
    full = calibration.shapes(run_a[2], unknown=())
    assert len(full) == 37
    last = run_a[2].looks[-1]
    assert sum(shape.output for shape in full) == pytest.approx(last.generated - run_a[2].looks[0].generated, rel=0.02)


def test_what_the_recording_does_not_tell_needs_shapes_to_stand_for_it(run_a, run_b):
    with pytest.raises(RecordingError, match="never started"):
        calibration.shapes(run_b[1], unknown=())
    assert len(calibration.shapes(run_b[1], unknown=calibration.shapes(run_a[2], unknown=()))) == 22


def test_the_fit_finds_the_costs_of_an_engine_whose_costs_are_known(run_a, batch_bound, costs):
    known = Costs(step=0.05, sequence=0.004, prefill_token=0.002)
    phase = run_a[1]
    settings = calibration.settings(batch_bound, max_num_seqs=8, costs=known)
    looks = calibration.replayed(phase, calibration.shapes(phase, unknown=()), engine_settings=settings)
    found = calibration.fit([calibration.Phase("mid", 6, tuple(looks))])
    assert found.step + 5 * found.sequence == pytest.approx(known.step + 5 * known.sequence, rel=0.1)
    assert calibration.pace(calibration.Phase("mid", 6, tuple(looks)), known) == pytest.approx(1.0, abs=0.1)
    assert costs.step > 0


def test_settings_are_the_recorded_ones(batch_bound, costs):
    settings = calibration.settings(batch_bound, max_num_seqs=8, costs=costs)
    assert (settings.num_blocks, settings.block_size, settings.max_model_len) == (100, 32, 2048)


@pytest.mark.parametrize(
    ("index", "figure", "bound"),
    [
        (index, figure, 0.15)
        for index in (0, 1, 2)
        for figure in ("running", "kv_usage", "throughput", "time_to_first_token", "inter_token_latency")
    ]
    + [(2, "waiting", 0.15)],
)
def test_the_model_is_near_the_run_that_its_costs_were_fitted_on(run_a, batch_bound, costs, index, figure, bound):
    phase = run_a[index]
    settings = calibration.settings(batch_bound, max_num_seqs=8, costs=costs)
    looks = calibration.replayed(
        phase,
        calibration.shapes(phase, unknown=()),
        engine_settings=settings,
        machine=calibration.paces(phase, costs),
    )
    recorded = getattr(calibration.figures(phase.looks, saturated=phase.saturated), figure)
    assert getattr(calibration.figures(looks, saturated=phase.saturated), figure) == pytest.approx(recorded, rel=bound)


@pytest.mark.parametrize(
    ("index", "figures"),
    [
        (0, ("running", "kv_usage", "throughput", "inter_token_latency")),
        (1, ("running", "waiting", "kv_usage", "throughput", "inter_token_latency")),
    ],
)
def test_the_memory_bound_run_is_predicted_with_costs_of_the_other(run_a, run_b, memory_bound, costs, index, figures):
    phase = run_b[index]
    unknown = calibration.shapes(run_a[2], unknown=())
    looks = calibration.replayed(
        phase,
        calibration.shapes(phase, unknown=unknown),
        engine_settings=calibration.settings(memory_bound, max_num_seqs=32, costs=costs),
        machine=calibration.paces(phase, costs),
    )
    recorded = calibration.figures(phase.looks, saturated=phase.saturated)
    simulated = calibration.figures(looks, saturated=phase.saturated)
    for figure in figures:
        assert getattr(simulated, figure) == pytest.approx(getattr(recorded, figure), rel=0.15), figure


def test_pages_of_another_engine_are_refused(batch_bound):
    page = batch_bound.pages[0]
    stranger = type(page)(at=0.0, body=b"up 1\n", running=0.0, waiting=0.0, kv_usage=0.0)
    with pytest.raises(RecordingError, match="lacks vllm:"):
        calibration.phases(Recording(pages=(stranger, stranger), loop_from=0))
