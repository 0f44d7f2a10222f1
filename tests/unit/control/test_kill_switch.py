"""The kill switch: what it says is obeyed, and what cannot be read stops rather than goes on."""

import asyncio

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.cluster.errors import Unavailable
from optiinfra.cluster.kill_switch import Answer, Said, _answer
from optiinfra.control.kill_switch import GRACE, OBEYED_WITHIN, POLL, ActsStopped, SwitchWatch
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.control import virtual


class Switch:
    """A ConfigMap that a test turns, and a server that may be away."""

    shown = "ConfigMap optiinfra/optiinfra-control"

    def __init__(self) -> None:
        self.said: Said | Unknown = Said.GO
        self.slow = 0.0

    async def read(self) -> Answer:
        if isinstance(self.said, Unknown):
            await asyncio.sleep(2.0)
            raise Unavailable("no answer in time", verb="get", path="/configmaps/optiinfra-control")
        await asyncio.sleep(self.slow)
        return Answer(self.said)


AWAY = Unknown(UnknownReason.UNREACHABLE, "away")


def watching(switch: Switch) -> tuple[SwitchWatch, list[float]]:
    turns: list[float] = []
    watch = SwitchWatch(switch, clock=virtual.now)
    watch.changed = lambda: turns.append(virtual.now())
    return watch, turns


def reason(watch: SwitchWatch) -> Reason | None:
    stop = watch.stop()
    return None if stop is None else stop.reason


def story(tell):
    async def told() -> None:
        switch = Switch()
        watch, turns = watching(switch)
        task = asyncio.create_task(watch.run())
        try:
            await tell(switch, watch, turns)
        finally:
            task.cancel()

    virtual.run(told)


def test_before_the_first_answer_nothing_may_be_done():
    watch = SwitchWatch(Switch(), clock=lambda: 0.0)
    assert reason(watch) is Reason.KILL_SWITCH_UNREADABLE
    with pytest.raises(ActsStopped):
        watch.check()


def test_it_is_obeyed_in_time_even_when_one_look_is_lost():
    async def tell(switch, watch, turns):
        await asyncio.sleep(10.0)
        watch.check()
        switch.said = AWAY  # somebody turns it on, and the very next look is lost
        await asyncio.sleep(POLL + 0.5)
        switch.said = Said.STOP
        await asyncio.sleep(OBEYED_WITHIN - POLL - 0.5)
        assert reason(watch) is Reason.KILL_SWITCH
        assert len(turns) == 2, "told when it first said that all is well, and when it was turned"
        assert turns[1] - 10.0 < OBEYED_WITHIN

    story(tell)


def test_turned_off_by_a_person_it_lets_go_on():
    async def tell(switch, watch, turns):
        switch.said = Said.STOP
        await asyncio.sleep(3.0)
        assert watch.stopped
        switch.said = Said.GO
        await asyncio.sleep(3.0)
        watch.check()

    story(tell)


@pytest.mark.parametrize("before", [Said.GO, Said.STOP, Said.ABSENT])
def test_unreadable_it_is_what_it_was_for_a_while_and_then_stops(before):
    async def tell(switch, watch, turns):
        switch.said = before
        await asyncio.sleep(5.0)
        switch.said = AWAY
        await asyncio.sleep(GRACE - 2.0)
        assert watch.stopped == (before is Said.STOP)
        await asyncio.sleep(6.0)
        assert watch.stopped
        expected = Reason.KILL_SWITCH if before is Said.STOP else Reason.KILL_SWITCH_UNREADABLE
        assert reason(watch) is expected
        switch.said = Said.GO
        await asyncio.sleep(4.0)
        assert not watch.stopped

    story(tell)


def test_deleted_while_it_was_on_it_stays_on_until_it_is_there_again_and_says_otherwise():
    async def tell(switch, watch, turns):
        switch.said = Said.STOP
        await asyncio.sleep(3.0)
        switch.said = Said.ABSENT
        await asyncio.sleep(300.0)
        assert reason(watch) is Reason.KILL_SWITCH
        assert "deleted" in watch.stop().message
        switch.said = Said.GO
        await asyncio.sleep(3.0)
        assert not watch.stopped

    story(tell)


def test_never_made_it_is_off():
    async def tell(switch, watch, turns):
        switch.said = Said.ABSENT
        await asyncio.sleep(3.0)
        assert not watch.stopped

    story(tell)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, Said.GO),
        ({"paused": "false"}, Said.GO),
        ({"paused": ""}, Said.GO),
        ({"paused": " False\n"}, Said.GO),
        ({"other": "true"}, Said.GO),
        ({"paused": "true"}, Said.STOP),
        ({"paused": "True\n"}, Said.STOP),
        ({"paused": "yes"}, Said.STOP),
        ({"paused": "0"}, Said.STOP),
    ],
)
def test_what_is_neither_true_nor_false_stops_and_says_what_to_write(data, said):
    answer = _answer({"data": data})
    assert answer.said is said
    plain = data.get("paused", "").strip().lower() in ("true", "false", "")
    assert bool(answer.detail) == (not plain)


def test_a_config_map_without_any_data_is_off():
    assert _answer({"metadata": {}}).said is Said.GO
