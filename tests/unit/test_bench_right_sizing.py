"""The gate on right-sizing: figures on recorded and made-up containers do not get worse; a worse one is noticed."""

import pytest

from bench import right_sizing
from bench.right_sizing_loads import made_up, own_fleet
from bench.right_sizing_runs import OURS, judge
from bench.right_sizing_tables import harm, rules


@pytest.fixture(scope="module")
def found():
    return right_sizing.quick_figures()


def test_no_figure_got_worse(found):
    assert [result for result in right_sizing.gate(found) if not result.kept] == []


@pytest.mark.parametrize("name", list(right_sizing.SLACK))
def test_a_worse_figure_is_noticed(found, name):
    worse = {
        key: value * 1.04 + 1.01 * right_sizing.SLACK[name] if key.endswith(f": {name}") else value
        for key, value in found.items()
    }
    caught = [result.name for result in right_sizing.gate(worse) if not result.kept]
    assert caught
    assert all(key.endswith(f": {name}") for key in caught)


def test_on_the_recorded_containers_it_does_less_harm_than_its_peers():
    judged = judge(own_fleet())
    mine, vpa, krr = (judged.of(name).figures for name in (OURS, "VPA", "KRR"))
    assert mine.cpu_over_time <= 0.013 < vpa.cpu_over_time < krr.cpu_over_time
    assert mine.oom_days_per_100 <= 1.0 < krr.oom_days_per_100
    assert judged.of("perfect knowledge").figures.oom_days_per_100 == 0.0
    assert f"| {OURS} |" in rules(judged)
    assert "raised" in harm([judged])


def test_made_up_fleets_come_from_their_seed():
    one, same, other = (made_up(3, days=5, seed=seed) for seed in (1, 1, 2))
    assert (one.usages[0].cpu_cores == same.usages[0].cpu_cores).all()
    assert not (one.usages[0].cpu_cores == other.usages[0].cpu_cores).all()
