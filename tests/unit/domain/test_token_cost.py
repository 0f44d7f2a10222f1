"""Money over tokens: every basis adds up to the money, and what is not known is no price."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.cost import PriceList
from optiinfra.domain.prices import NodePrice, Origin, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.token_cost import Basis, Charge, Moment, TokenMeter, TokenPrice
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import PodFacts
from optiinfra.domain.workload_cost import PlacedPod, workload_cost

BUSY = Moment(
    held_per_hour=10.0,
    used_per_hour=6.0,
    prompt_rate=1_000.0,
    generation_rate=250.0,
    prefill_seconds=1.0,
    decode_seconds=9.0,
)
MISSING = Unknown(UnknownReason.STALE, "no page")


def metered(moment: Moment = BUSY, *, rounds: int = 40, step: float = 30.0) -> dict[tuple[Basis, Charge], TokenPrice]:
    meter = TokenMeter()
    for index in range(rounds):
        meter.observe(moment, now=UnixTime(1e9 + index * step))
    return {(one.basis, one.charge): one for one in meter.prices(moment)}


def test_every_basis_is_named_and_comes_to_the_same_money():
    found = metered()
    assert set(found) == {(basis, charge) for basis in Basis for charge in Charge}
    generated = found[Basis.GENERATED, Charge.HELD]
    assert generated.generation == pytest.approx(10.0 / (250 * 3600) * 1e6)
    assert isinstance(generated.prompt, Unknown)
    weighted = found[Basis.WEIGHTED, Charge.HELD]
    assert weighted.prompt == pytest.approx(10.0 / ((1000 + 4 * 250) * 3600) * 1e6)
    assert weighted.generation == pytest.approx(4 * weighted.prompt)
    timed = found[Basis.TIME, Charge.HELD]
    assert timed.prompt == pytest.approx(1.0 / (1000 * 3600) * 1e6)
    assert timed.generation == pytest.approx(9.0 / (250 * 3600) * 1e6)
    for one in (weighted, timed):
        assert one.prompt * 3.6 * 1000 / 1e3 + one.generation * 3.6 * 250 / 1e3 == pytest.approx(10.0)
    used = found[Basis.WEIGHTED, Charge.USED]
    assert used.prompt == pytest.approx(0.6 * weighted.prompt)


@given(
    money=st.floats(0.01, 500),
    prompt=st.floats(10, 1e6),
    generation=st.floats(10, 1e6),
    prefill=st.floats(0.001, 100),
    decode=st.floats(0.001, 100),
)
def test_prompt_and_generation_together_cost_what_is_paid(money, prompt, generation, prefill, decode):
    moment = Moment(money, money / 2, prompt, generation, prefill, decode)
    found = metered(moment, rounds=60)
    for basis in (Basis.WEIGHTED, Basis.TIME):
        one = found[basis, Charge.HELD]
        assert one.prompt * prompt * 3600 / 1e6 + one.generation * generation * 3600 / 1e6 == pytest.approx(money)


def test_a_moment_without_money_or_tokens_counts_for_neither():
    meter = TokenMeter()
    for index in range(120):
        moment = BUSY if index % 2 else replace(BUSY, prompt_rate=MISSING)
        if index % 4 == 1:
            moment = replace(BUSY, held_per_hour=MISSING, used_per_hour=MISSING, prompt_rate=9e9)
        meter.observe(moment, now=UnixTime(1e9 + index * 30.0))
    found = {(one.basis, one.charge): one for one in meter.prices(BUSY)}
    assert found[Basis.WEIGHTED, Charge.HELD].prompt == pytest.approx(metered()[Basis.WEIGHTED, Charge.HELD].prompt)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (replace(BUSY, held_per_hour=MISSING), "no page"),
        (replace(BUSY, prompt_rate=MISSING), "no page"),
        (replace(BUSY, prompt_rate=0.0, generation_rate=0.1), "fewer than a thousand tokens"),
    ],
)
def test_what_is_not_known_says_why(moment, words):
    found = metered(moment)[Basis.WEIGHTED, Charge.HELD]
    assert isinstance(found.prompt, Unknown)
    assert isinstance(found.generation, Unknown)
    assert words in str(found.prompt)


def test_a_few_minutes_are_too_few():
    assert "five minutes" in str(metered(rounds=5)[Basis.WEIGHTED, Charge.HELD].prompt)
    assert not isinstance(metered(rounds=12)[Basis.WEIGHTED, Charge.HELD].prompt, Unknown)


def test_without_times_the_split_by_time_alone_is_unknown():
    found = metered(replace(BUSY, prefill_seconds=MISSING))
    assert "prefill and in decode" in str(found[Basis.TIME, Charge.HELD].prompt)
    assert not isinstance(found[Basis.WEIGHTED, Charge.HELD].prompt, Unknown)


def test_without_use_what_is_held_is_known():
    found = metered(replace(BUSY, used_per_hour=MISSING))
    assert isinstance(found[Basis.WEIGHTED, Charge.USED].prompt, Unknown)
    assert not isinstance(found[Basis.WEIGHTED, Charge.HELD].prompt, Unknown)


def test_a_minute_without_use_takes_nothing_from_the_hour_and_a_price_that_is_gone_takes_all():
    meter = TokenMeter()
    for index in range(40):
        meter.observe(BUSY, now=UnixTime(1e9 + index * 30.0))

    def told(moment: Moment, charge: Charge):
        found = {(one.basis, one.charge): one for one in meter.prices(moment)}
        return found[Basis.WEIGHTED, charge].prompt

    unused = replace(BUSY, used_per_hour=MISSING)
    assert told(unused, Charge.USED) == pytest.approx(told(BUSY, Charge.USED))
    unpriced = replace(BUSY, used_per_hour=MISSING, held_per_hour=MISSING)
    assert told(unpriced, Charge.USED) is told(unpriced, Charge.HELD) is MISSING


def test_only_generated_tokens_have_no_price_of_prompts():
    found = metered(replace(BUSY, prompt_rate=0.0))
    assert "fewer than a thousand prompt tokens" in str(found[Basis.TIME, Charge.HELD].prompt)
    assert found[Basis.TIME, Charge.HELD].generation > 0.0


def test_gaps_are_not_filled_and_a_clock_that_goes_back_begins_anew():
    meter = TokenMeter()
    for now in (0.0, 30.0, 5_000.0, 5_030.0):
        meter.observe(BUSY, now=UnixTime(1e9 + now))
    assert sum(sums.span for (charge, timed), sums in meter.sums.items() if charge is Charge.HELD and not timed) < 61.0
    meter.observe(BUSY, now=UnixTime(1e9))
    assert not meter.sums


def test_old_prices_fade():
    meter = TokenMeter()
    for index in range(1_000):
        moment = BUSY if index < 500 else replace(BUSY, held_per_hour=20.0)
        meter.observe(moment, now=UnixTime(1e9 + index * 30.0))
    found = next(one for one in meter.prices(BUSY) if (one.basis, one.charge) == (Basis.WEIGHTED, Charge.HELD))
    assert found.prompt == pytest.approx(2 * metered()[Basis.WEIGHTED, Charge.HELD].prompt, rel=0.05)


# the workload

ORIGIN = Origin(PriceSource.LIST_PRICE, "aws us-east-1 p5.48xlarge, on demand", "2026-01-19")
PRICE = NodePrice(
    node="n",
    hour=60.0,
    marginal_hour=60.0,
    gpu_hour=5.0,
    cpu_core_hour=0.1,
    memory_gib_hour=0.01,
    origin=ORIGIN,
    currency="USD",
    gpus=8.0,
)


def pod(gpus: float = 2.0) -> PodFacts:
    return PodFacts(
        name="p",
        uid="u",
        ip="",
        node="n",
        phase="Running",
        ready=True,
        terminating=False,
        created=UnixTime(0.0),
        became_ready=None,
        gpus=gpus,
        cpu_request_cores=10.0,
        memory_request_bytes=100 * 2.0**30,
    )


def test_a_workload_costs_what_its_pods_ask_for():
    found = workload_cost(
        [PlacedPod(pod(), PRICE), PlacedPod(pod(), PRICE)], replicas=2, gpu_ratio=0.25, otherwise=PriceList()
    )
    assert found.held == pytest.approx(2 * (10.0 + 1.0 + 1.0))
    assert found.used == pytest.approx(2 * (2.5 + 1.0 + 1.0))
    assert found.per_replica == pytest.approx(12.0)
    assert found.origins == ((ORIGIN, 2),)


def test_two_pods_can_be_one_replica():
    found = workload_cost([PlacedPod(pod(), PRICE)] * 2, replicas=1, gpu_ratio=0.25, otherwise=PriceList())
    assert found.per_replica == pytest.approx(24.0)


def test_one_node_without_a_price_makes_the_whole_unknown():
    bad = replace(PRICE, gpu_hour=MISSING)
    found = workload_cost(
        [PlacedPod(pod(), PRICE), PlacedPod(replace(pod(), node="m"), bad)],
        replicas=2,
        gpu_ratio=0.5,
        otherwise=PriceList(),
    )
    assert found.held is found.per_replica is MISSING


def test_use_that_is_not_measured_leaves_what_is_held():
    found = workload_cost([PlacedPod(pod(), PRICE)], replicas=1, gpu_ratio=MISSING, otherwise=PriceList())
    assert found.held == pytest.approx(12.0)
    assert found.used is MISSING
    plain = workload_cost([PlacedPod(pod(0.0), PRICE)], replicas=1, gpu_ratio=0.5, otherwise=PriceList())
    assert "no GPUs" in str(plain.used)


def test_without_pods_there_is_nothing_to_pay():
    assert "no pod has a node" in str(workload_cost([], replicas=0, gpu_ratio=0.5, otherwise=PriceList()).held)


def test_where_no_nodes_are_seen_the_prices_of_the_pool_count():
    found = workload_cost([PlacedPod(pod(), None)], replicas=1, gpu_ratio=0.5, otherwise=PriceList(gpu_hour=2.0))
    assert found.held == pytest.approx(2 * 2.0 + 10 * 0.031611 + 100 * 0.004237)
    unknown = workload_cost([PlacedPod(pod(), None)], replicas=1, gpu_ratio=0.5, otherwise=PriceList())
    assert "prices.gpuHour" in str(unknown.held)
