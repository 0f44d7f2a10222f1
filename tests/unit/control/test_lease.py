"""Leadership: one leader at most at any moment, and never for long none."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.cluster.errors import AlreadyExists, Conflict, Unavailable
from optiinfra.cluster.leases import LeaseRecord
from optiinfra.control.lease import Elector, LeaseTimes
from optiinfra.errors import LeadershipLost, SettingsError
from tests.unit.control import virtual

TIMES = LeaseTimes(duration=15.0, renew_deadline=10.0, retry_period=2.0)


class Server:
    """The API server's part: one record, and a version that each write changes."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.version = 0

    def write(self, record: LeaseRecord, previous: LeaseRecord | None) -> LeaseRecord:
        if previous is None and self.record is not None:
            raise AlreadyExists("exists", code=409)
        if previous is not None and (self.record is None or previous.resource_version != self.record.resource_version):
            raise Conflict("changed", code=409)
        self.version += 1
        self.record = replace(record, resource_version=str(self.version))
        return self.record


@dataclass(frozen=True)
class Call:
    """What happens to one call: seconds there and back, and whether it is lost on one of the two ways."""

    there: float = 0.01
    back: float = 0.01
    lost: str = ""


GOOD = Call()


@dataclass
class Wire:
    """One replica's way to the server; a lost call fails after the client's time-out of three seconds."""

    server: Server
    calls: Iterator[Call] = field(default_factory=lambda: iter(()))
    cut: bool = False

    async def _send(self, work: Callable[[], LeaseRecord | None]) -> LeaseRecord | None:
        call = next(self.calls, GOOD)
        if self.cut or call.lost == "there":
            await asyncio.sleep(3.0)
            raise Unavailable("no answer within 3 s", verb="get", path="/lease")
        await asyncio.sleep(call.there)
        try:
            result = work()
        finally:
            await asyncio.sleep(call.back)
        if call.lost == "back":
            await asyncio.sleep(3.0)
            raise Unavailable("no answer within 3 s", verb="put", path="/lease")
        return result

    async def read(self) -> LeaseRecord | None:
        return await self._send(lambda: self.server.record)

    async def write(self, record: LeaseRecord, *, previous: LeaseRecord | None) -> LeaseRecord:
        written = await self._send(lambda: self.server.write(record, previous))
        assert written is not None
        return written


@dataclass
class Replica:
    elector: Elector
    wire: Wire
    took: list[float]
    task: asyncio.Task[None]

    def may_write(self) -> bool:
        try:
            self.elector.check()
        except LeadershipLost:
            return False
        return True

    async def end(self) -> None:
        self.elector.stop()
        await asyncio.gather(self.task, return_exceptions=True)


def start(
    server: Server, name: str, *, times: LeaseTimes = TIMES, calls: Iterator[Call] | None = None, ahead: float = 0.0
) -> Replica:
    took: list[float] = []
    wire = Wire(server, calls or iter(()))
    elector = Elector(
        store=wire,
        identity=name,
        times=times,
        clock=lambda: virtual.now() + ahead,
        on_leading=lambda: took.append(virtual.now()),
    )
    return Replica(elector, wire, took, asyncio.create_task(elector.run()))


async def until(condition: Callable[[], object], *, step: float = 0.01, at_most: float = 60.0) -> None:
    """Let virtual time pass until something holds."""
    for _ in range(int(at_most / step)):
        if condition():
            return
        await asyncio.sleep(step)
    raise AssertionError(f"not within {at_most} s")


def test_the_first_replica_leads_and_the_second_follows_and_knows_whom():
    async def story() -> None:
        server = Server()
        a = start(server, "a@1:80")
        await asyncio.sleep(1.0)
        b = start(server, "b@2:80")
        await asyncio.sleep(120.0)
        assert a.may_write()
        assert not b.may_write()
        assert b.elector.leader == "a@1:80" == a.elector.leader
        assert a.took == [pytest.approx(0.04)]
        assert b.took == []
        assert server.record is not None
        assert server.record.transitions == 0
        await b.end()
        await a.end()

    virtual.run(story)


def test_a_follower_is_told_at_its_first_look_and_a_leader_never():
    async def story() -> None:
        server, seen = Server(), []
        a = start(server, "a@1:80")
        a.elector.on_following = lambda: seen.append("a")
        await asyncio.sleep(1.0)
        assert seen == []
        b = start(server, "b@2:80")
        b.elector.on_following = lambda: seen.append("b")
        await asyncio.sleep(1.0)
        assert seen == ["b"]
        await b.end()
        await a.end()

    virtual.run(story)


def test_of_two_that_start_together_one_leads():
    async def story() -> None:
        server = Server()
        both = [start(server, "a"), start(server, "b")]
        await asyncio.sleep(30.0)
        assert sorted(replica.may_write() for replica in both) == [False, True]
        for replica in both:
            await replica.end()

    virtual.run(story)


def test_a_dead_leader_is_replaced_after_its_duration_and_not_before():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(5.0)
        b = start(server, "b")
        await asyncio.sleep(20.0)
        last_renewed, version = virtual.now(), server.version
        a.wire.cut = True
        await until(b.may_write, at_most=25.0)
        assert server.version > version
        assert virtual.now() > last_renewed - 2.3 + 15.0
        assert not a.may_write()
        with pytest.raises(LeadershipLost):
            await a.task
        assert server.record is not None
        assert server.record.transitions == 1
        await b.end()

    virtual.run(story)


def test_a_lease_counts_as_expired_only_after_this_replica_watched_it_for_its_whole_duration():
    async def story() -> float:
        server = Server()
        server.record = LeaseRecord(holder="ghost", duration_seconds=15, transitions=3, resource_version="9")
        await asyncio.sleep(1000.0)  # how old it is on any clock says nothing
        began = virtual.now()
        b = start(server, "b")
        await until(lambda: b.took)
        await b.end()
        return b.took[0] - began

    assert 15.0 < virtual.run(story) < 18.0


def test_a_lease_that_is_renewed_while_it_is_watched_is_never_taken():
    async def story() -> None:
        server = Server()
        server.record = LeaseRecord(holder="other", duration_seconds=15, transitions=0, resource_version="0")
        b = start(server, "b")
        for _ in range(20):
            await asyncio.sleep(12.0)
            server.write(server.record, server.record)
        assert b.took == []
        await b.end()
        assert server.record.holder == "other", "a follower that stops gives nothing back"

    virtual.run(story)


def test_a_leader_that_stops_gives_the_lease_back_and_the_other_leads_at_once():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(5.0)
        b = start(server, "b")
        await asyncio.sleep(5.0)
        a.elector.stop()
        await a.task
        assert not a.may_write()
        given_back = virtual.now()
        await until(b.may_write)
        assert virtual.now() - given_back < 2.5
        await b.end()

    virtual.run(story)


def test_a_stopping_leader_may_not_write_from_the_moment_it_gives_the_lease_back():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(5.0)
        a.wire.calls = iter([Call(there=2.0), Call(there=2.0)])
        a.elector.stop()
        await asyncio.sleep(0.5)
        assert not a.task.done()
        assert not a.may_write()
        await a.task

    virtual.run(story)


def test_a_lease_that_cannot_be_given_back_expires_by_itself_and_stopping_still_ends():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(5.0)
        a.wire.cut = True
        a.elector.stop()
        await asyncio.wait_for(a.task, 10.0)
        assert server.record is not None
        assert server.record.holder == "a"

    virtual.run(story)


def test_when_renewing_fails_writing_ends_at_the_deadline_and_run_raises():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(6.0)
        assert a.may_write()
        a.wire.cut = True
        cut_at = virtual.now()
        await until(lambda: not a.may_write())
        assert 10.0 - 2.3 < virtual.now() - cut_at < 10.05
        with pytest.raises(LeadershipLost, match="10 s"):
            await a.task
        assert virtual.now() - cut_at < 16.0

    virtual.run(story)


def test_a_short_outage_costs_nothing():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(6.0)
        for _ in range(5):
            a.wire.cut = True
            await asyncio.sleep(4.0)
            assert a.may_write()
            a.wire.cut = False
            await asyncio.sleep(6.0)
            assert a.may_write()
        assert len(a.took) == 1
        await a.end()

    virtual.run(story)


def test_the_deadline_counts_from_before_the_request():
    async def story() -> None:
        server = Server()
        a = start(server, "a", calls=iter([Call(), Call(there=0.1, back=8.0)]))
        await asyncio.sleep(8.2)
        assert a.may_write()
        a.wire.cut = True
        await asyncio.sleep(1.7)
        assert a.may_write()
        await asyncio.sleep(0.2)
        assert not a.may_write(), "ten seconds after the question, not after the answer"
        await a.end()

    virtual.run(story)


def test_an_answer_that_comes_after_its_own_deadline_makes_nobody_a_leader():
    async def story() -> None:
        server = Server()
        a = start(server, "a", calls=iter([Call(), Call(back=12.0)]))
        await asyncio.sleep(12.05)
        assert a.took == []
        assert not a.may_write()
        await asyncio.sleep(5.0)
        assert a.may_write()
        await a.end()

    virtual.run(story)


def test_a_leader_whose_deadline_passed_never_comes_back_to_life():
    # A renewal that began in time ends too late, and succeeds: others may have led, what it remembers may be old.
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(6.0)
        slow = Call(there=2.0, back=0.5)
        a.wire.calls = iter([Call(lost="there"), slow, slow])
        await until(lambda: not a.may_write())
        version = server.version
        with pytest.raises(LeadershipLost):
            await asyncio.wait_for(a.task, 10.0)
        assert server.version > version, "the renewal itself succeeded"
        assert not a.may_write()
        assert len(a.took) == 1

    virtual.run(story)


def test_a_leader_that_reads_another_name_stops_writing_at_once():
    # Somebody deleted the Lease and another replica made a new one: the deadline alone would allow seconds of two.
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(6.0)
        server.record = LeaseRecord(holder="b", duration_seconds=15, transitions=0, resource_version="77")
        await asyncio.sleep(2.5)
        assert not a.may_write()
        with pytest.raises(LeadershipLost):
            await a.task
        assert server.record.holder == "b"

    virtual.run(story)


@dataclass
class Meddled(Wire):
    """Before the next write arrives, somebody annotates the Lease."""

    notes: list[dict[str, str]] = field(default_factory=list)

    async def write(self, record: LeaseRecord, *, previous: LeaseRecord | None) -> LeaseRecord:
        if self.notes and self.server.record is not None:
            self.server.write(replace(self.server.record, annotations=self.notes.pop()), self.server.record)
        return await super().write(record, previous=previous)


def test_a_conflict_is_looked_at_again_and_costs_neither_the_lease_nor_the_others_note():
    async def story() -> None:
        server = Server()
        a = start(server, "a")
        await asyncio.sleep(6.0)
        meddled = Meddled(server, notes=[{"note": "x"}])
        a.elector.store = meddled
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert a.may_write()
        assert meddled.notes == []
        assert server.record is not None
        assert server.record.annotations == {"note": "x"}
        assert server.record.holder == "a"
        await a.end()

    virtual.run(story)


def test_clocks_that_show_other_times_do_not_matter():
    # Each replica's monotonic clock counts from its own boot: only differences may be used.
    async def story() -> None:
        server = Server()
        a = start(server, "a", ahead=1e9)
        await asyncio.sleep(6.0)
        b = start(server, "b", ahead=-5e6)
        for _ in range(200):
            await asyncio.sleep(0.5)
            assert a.may_write()
            assert not b.may_write()
        await b.end()
        await a.end()

    virtual.run(story)


@pytest.mark.parametrize(
    ("times", "named"),
    [
        ((10.0, 10.0, 2.0), ("LEASE_DURATION", "RENEW_DEADLINE")),
        ((3.0, 90.0, 2.0), ("LEASE_DURATION", "RENEW_DEADLINE")),
        ((15.0, 2.0, 2.0), ("RENEW_DEADLINE", "RETRY_PERIOD")),
        ((15.0, 2.0, 1.9), ("RENEW_DEADLINE", "RETRY_PERIOD")),
    ],
)
def test_times_with_which_two_could_lead_are_refused_by_name(times, named):
    with pytest.raises(SettingsError) as refused:
        LeaseTimes(*times)
    for name in named:
        assert f"OPTIINFRA_{name}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_duration_with_a_fraction_is_believed_at_least_as_long():
    async def story() -> None:
        server = Server()
        a = start(server, "a", times=LeaseTimes(duration=3.9, renew_deadline=3.5, retry_period=0.5))
        await asyncio.sleep(1.0)
        assert server.record is not None
        assert server.record.duration_seconds >= 3.9
        await a.end()

    virtual.run(story)


DELAYS = st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.9, 8.0, 11.0, 16.0, 30.0])
CALLS = st.lists(
    st.builds(Call, there=DELAYS, back=DELAYS, lost=st.sampled_from(["", "", "", "there", "back"])), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(CALLS, CALLS, CALLS),
    st.lists(st.sampled_from([0.0, 0.5, 7.0]), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.floats(1.0, 60.0)), min_size=3, max_size=3),
)
def test_whatever_the_network_does_two_never_lead_at_once(scripts, starts, stops):
    async def story() -> None:
        server = Server()
        replicas: list[Replica] = []

        async def live(number: int) -> None:
            await asyncio.sleep(starts[number])
            replica = start(server, f"r{number}", calls=iter(scripts[number]), ahead=number * 12345.0)
            replicas.append(replica)
            leaves = stops[number]
            if leaves is not None:
                await asyncio.sleep(leaves)
                replica.elector.stop()
            await asyncio.gather(replica.task, return_exceptions=True)
            assert not replica.may_write(), "who has ended writes no more"

        lives = [asyncio.create_task(live(number)) for number in range(3)]
        for _ in range(1200):
            await asyncio.sleep(0.1)
            leaders = [replica.elector.identity for replica in replicas if replica.may_write()]
            assert len(leaders) <= 1, f"{leaders} at {virtual.now():.1f}"
        for replica in replicas:
            await replica.end()
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    virtual.run(story)


@settings(max_examples=50, deadline=None)
@given(st.tuples(CALLS, CALLS))
def test_when_the_network_is_well_again_somebody_leads(scripts):
    async def story() -> None:
        server = Server()
        tasks = []

        async def reborn(name: str, calls: Iterator[Call]) -> None:
            # The kubelet starts a container again whose process ended.
            while True:
                replica = start(server, name, calls=calls)
                tasks.append(replica)
                await asyncio.gather(replica.task, return_exceptions=True)

        lives = [asyncio.create_task(reborn(f"r{number}", iter(script))) for number, script in enumerate(scripts)]
        await asyncio.sleep(25 * 70.0)
        assert sum(replica.may_write() for replica in tasks) == 1
        for life in lives:
            life.cancel()
        for replica in tasks:
            await replica.end()

    virtual.run(story)
