"""The floor to hold now: what holds for every need, every HPA and every limit."""

from hypothesis import example, given
from hypothesis import strategies as st

from optiinfra.api.reasons import Reason
from optiinfra.control.floor_steps import floor_step
from tests.unit.control.examples import decision, facts, limits, pending, ro, scaler, service

counts = st.integers(1, 40)


@given(
    wanted=counts,
    original=counts,
    above=st.integers(0, 40),
    room=st.integers(0, 40),
    own_maximum=st.none() | counts,
    current=counts,
    step=st.integers(1, 8),
    faster=st.none() | st.integers(0, 20),
    held=st.booleans(),
    active=st.none() | st.booleans(),
    waiting=st.booleans(),
)
@example(
    wanted=1,
    original=2,
    above=1,
    room=0,
    own_maximum=None,
    current=3,
    step=8,
    faster=None,
    held=True,
    active=True,
    waiting=False,
)
@example(
    wanted=1,
    original=2,
    above=0,
    room=0,
    own_maximum=None,
    current=2,
    step=1,
    faster=None,
    held=True,
    active=None,
    waiting=False,
)
def test_whatever_is_needed_the_floor_keeps_to_its_rules(
    wanted, original, above, room, own_maximum, current, step, faster, held, active, waiting
):
    minimum = original + above if held else original
    maximum = minimum + room
    hpa = scaler(
        min_replicas=minimum,
        max_replicas=maximum,
        held=held,
        original_min_replicas=original if held else None,
        scaling_active=active,
    )
    work = service(ro(mode="Auto", scaling={"actuation": "Floor"}), decision=decision(wanted), order=wanted)
    target = work.targets[0]
    target.facts = facts(current, scaler=hpa)
    if waiting:
        target.facts = facts(current, scaler=hpa, pods=(*target.facts.pods, pending()))
    most = maximum if own_maximum is None else min(maximum, own_maximum)
    target.limits = limits(minimum=min(original, most), maximum=most)
    highest = None if faster is None else max(current, minimum) + faster
    found = floor_step(target, hpa, step=step, highest=highest)
    if found.value is None:
        assert not held
        return
    assert found.value <= maximum, "never above the live maximum: the API server would refuse it"
    if found.value > minimum:
        assert not waiting, "more replicas do not help while GPU pods wait for a node"
        assert found.value <= most
        assert found.value <= max(minimum, current) + step
        assert highest is None or found.value <= highest
    if found.value < minimum:
        assert found.value >= min(original, most)
        beyond = minimum > most
        assert beyond or minimum - found.value <= step
        assert beyond or active is True, "who cannot rise again by himself must not fall"
    below = max(wanted, min(original, most)) < minimum  # what the user had without us is no fall
    if found.value == minimum and below and held and active is not True and minimum <= most:
        assert found.effect is not None
        assert found.effect.reason is Reason.ONE_WAY_FLOOR
