"""Questions asked at fewer moments: what stands between them, what holes become, and what the end of the range gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from optiinfra.cluster.prometheus_ask import MetricsServer, PrometheusServer, TimeGrid
from optiinfra.domain.report.frames import Question
from tests.unit.prometheus_stub import prometheus
from tests.unit.promql_stub import series

HOUR = 3600.0
STEP = 300.0
END = 1_700_006_400.0 + 7 * STEP
SINCE = 6 * HOUR
USE = Question(
    "use",
    "max by (namespace) (avg_over_time(use{$matchers}[$window]))",
    ("namespace",),
    ("use",),
    coarse_s=HOUR,
)
KILLS = Question(
    "kills",
    "sum by (namespace) (increase(kills{$matchers}[$window]))",
    ("namespace",),
    ("kills",),
    coarse_s=HOUR,
    events=True,
)


async def asked(question, value):
    name = question.metrics[0]
    with prometheus(fleet=dict([series(name, value, namespace="a")])) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url))) as session:
            answer = await session.ask([question], TimeGrid.ending(END, since=SINCE, step=STEP))
        calls = [one for one in stub.asked if question.promql.partition("{")[0] in one.get("query", "")]
    (frame,) = answer.frames
    return frame, calls


async def test_each_value_stands_at_the_steps_that_it_was_measured_over():
    frame, calls = await asked(USE, lambda time: time)
    assert len(frame.times) == 72
    assert frame.times[-1] == END
    hours = np.ceil(frame.times / HOUR) * HOUR
    assert frame.values[0].tolist() == np.minimum(hours, END).tolist()
    # The hours are asked for by the hour; the rest, seven steps, with a window as long as it.
    assert {(one["step"], one["query"].partition("[")[2][:5]) for one in calls} == {
        ("3600.000", "3600s"),
        ("3600.000", "2100s"),
    }


async def test_an_hour_without_a_sample_stays_a_hole():
    hole = np.floor(END / HOUR) * HOUR - 2 * HOUR
    frame, _ = await asked(USE, lambda time: None if time == hole else 1.0)
    within = (frame.times > hole - HOUR) & (frame.times <= hole)
    assert np.isnan(frame.values[0][within]).all()
    assert (frame.values[0][~within] == 1.0).all()


async def test_counts_add_up_to_what_was_counted():
    frame, _ = await asked(KILLS, lambda _: 2.0)
    # Six whole hours lie in six hours and a rest, or reach into them, and the rest is counted by itself.
    assert np.isfinite(frame.values).all()
    assert frame.values.sum() == 2.0 * np.unique(np.ceil(frame.times / HOUR)).size
    assert (frame.values[0] > 0.0).sum() == np.unique(np.ceil(frame.times / HOUR)).size


async def test_a_range_of_less_than_two_hours_is_asked_step_by_step():
    with prometheus(fleet=dict([series("use", lambda time: time, namespace="a")])) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url))) as session:
            answer = await session.ask([USE], TimeGrid.ending(END, since=HOUR, step=STEP))
    (frame,) = answer.frames
    assert frame.values[0].tolist() == frame.times.tolist()


@given(
    end=st.integers(1_000_000, 2_000_000),
    since=st.integers(2, 2000),
    step=st.sampled_from([60.0, 300.0, 420.0, 900.0, 3600.0]),
    coarse=st.sampled_from([300.0, 1200.0, 3600.0]),
)
def test_every_step_lies_in_the_window_of_its_moment(end, since, step, coarse):
    whole = TimeGrid.ending(end, since=since * step, step=step)
    few = whole.coarser(coarse)
    if few is whole:
        return
    assert few.step % whole.step == 0.0
    assert few.window == few.step <= max(coarse, step)
    assert whole.start <= few.start < few.end <= whole.end
    places = whole.spread_from(few)
    moments = np.append(few.times, whole.end)
    assert (moments[places] >= whole.times).all()
    told = places < few.points
    assert (moments[places[told]] - whole.times[told] < few.step).all()
    assert (whole.times[~told] > few.end).all()
    assert bool((~told).any()) == (whole.end > few.end)


@pytest.mark.parametrize("question", [USE, KILLS])
async def test_the_newest_value_is_that_of_the_end(question):
    frame, _ = await asked(question, lambda time: 5.0 if time == END else 1.0)
    assert frame.values[0, -1] == 5.0
