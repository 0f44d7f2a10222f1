"""Windows of an hour: they end at whole hours wherever the grid begins, and miss no step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.report.hours import HOUR_S, Cut


@given(first=st.integers(5_000_000, 6_000_000), points=st.integers(1, 400), step=st.sampled_from([60.0, 300.0, 900.0]))
def test_windows_end_at_whole_hours_and_hold_every_step_once(first, points, step):
    times = first * step + step * np.arange(points)
    cut = Cut(times, step_s=step)
    slices = cut.slices()
    assert len(slices) == cut.count
    assert [at for one in slices for at in range(one.start, one.stop)] == list(range(points))
    for one in slices:
        hours = np.ceil(times[one] / HOUR_S)
        assert (hours == hours[0]).all()
    ends = cut.joined(times, np.nanmax)
    assert ends.tolist() == [times[one.stop - 1] for one in slices]


@pytest.mark.parametrize("step", [420.0, 7200.0])
def test_steps_that_do_not_fit_into_an_hour_are_cut_from_the_first_on(step):
    times = 1_700_000_100.0 + step * np.arange(20)
    cut = Cut(times, step_s=step)
    assert sum(one.stop - one.start for one in cut.slices()) == 20
    assert len(cut.joined(times, np.nanmean)) == cut.count
