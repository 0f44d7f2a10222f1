"""The queue: once a key, at its earliest time, never lost, never processed twice at one time."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.control.queue import KeyedQueue
from tests.unit.control import virtual


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def take(queue: KeyedQueue, limit: int = 100) -> list:
    """Take what is due now; nothing when nothing is."""

    async def story() -> list:
        if not queue.due:
            return []
        return list(await queue.next_batch(limit))

    return asyncio.run(story())


def fresh() -> tuple[KeyedQueue, Clock]:
    clock = Clock()
    return KeyedQueue(clock=clock), clock


def test_a_key_asked_for_twice_is_handed_out_once():
    queue, _ = fresh()
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert take(queue) == ["a", "b"]
    assert take(queue) == []


def test_the_earliest_request_wins_in_whichever_order_they_come():
    for delays in ((5.0, 60.0), (60.0, 5.0)):
        queue, clock = fresh()
        for delay in delays:
            queue.add("a", delay=delay)
        clock.now += 4.9
        assert take(queue) == []
        clock.now += 0.2
        assert take(queue) == ["a"]
        queue.done("a")
        clock.now += 100.0
        assert take(queue) == [], "the later request was the same request"


def test_urgent_keys_come_before_all_that_are_due_longer():
    queue, clock = fresh()
    queue.add("old")
    queue.add("older", delay=0.0)
    clock.now += 10.0
    queue.add("late", delay=3600.0)
    queue.add("now", urgent=True)
    queue.add("late", urgent=True)
    assert take(queue, limit=1) == ["now"]
    assert take(queue) == ["late", "old", "older"]


def test_a_key_that_is_due_already_can_still_become_urgent():
    queue, clock = fresh()
    queue.add("first")
    clock.now += 1.0
    queue.add("a")
    clock.now += 1.0
    queue.add("a", urgent=True)
    assert take(queue, limit=1) == ["a"]
    assert take(queue) == ["first"]


def test_urgency_survives_a_request_that_is_not_urgent():
    queue, clock = fresh()
    queue.add("first")
    queue.add("a", urgent=True)
    queue.add("a", delay=0.0)
    clock.now += 1.0
    assert take(queue, limit=1) == ["a"]


def test_a_negative_delay_is_now():
    queue, _ = fresh()
    queue.add("a", delay=-5.0)
    assert take(queue) == ["a"]


def test_an_active_key_is_not_handed_out_again_before_it_is_done_and_its_request_is_kept():
    queue, clock = fresh()
    queue.add("a")
    assert take(queue) == ["a"]
    queue.add("a", urgent=True)
    clock.now += 60.0
    assert take(queue) == []
    queue.done("a")
    assert take(queue) == ["a"]


def test_of_several_requests_for_an_active_key_the_earliest_wins():
    queue, clock = fresh()
    queue.add("a")
    take(queue)
    queue.add("a", delay=30.0)
    queue.add("a", delay=10.0)
    queue.add("a", delay=50.0)
    queue.done("a")
    clock.now += 9.0
    assert take(queue) == []
    clock.now += 1.5
    assert take(queue) == ["a"]


def test_a_removed_key_is_gone_even_while_it_is_active():
    queue, clock = fresh()
    queue.add("waiting", delay=1.0)
    queue.add("active")
    assert take(queue) == ["active"]
    queue.add("active")
    queue.remove("waiting")
    queue.remove("active")
    queue.done("active")
    clock.now += 100.0
    assert take(queue) == []
    assert len(queue) == 0


def test_a_removed_key_can_come_back_later_than_before():
    queue, clock = fresh()
    queue.add("a", delay=1.0)
    queue.remove("a")
    queue.add("a", delay=10.0)
    clock.now += 5.0
    assert take(queue) == []
    clock.now += 5.5
    assert take(queue) == ["a"]


def test_a_batch_is_bounded_and_the_rest_stays():
    queue, _ = fresh()
    for number in range(7):
        queue.add(number)
    assert [len(take(queue, limit=3)) for _ in range(4)] == [3, 3, 1, 0]


def test_keys_that_cannot_be_compared_share_a_moment():
    queue, _ = fresh()
    keys = [object() for _ in range(5)]
    for key in keys:
        queue.add(key)
    assert set(take(queue)) == set(keys)


def test_waiting_ends_at_the_due_time_and_not_before():
    async def story() -> float:
        queue: KeyedQueue[str] = KeyedQueue(clock=virtual.now)
        queue.add("a", delay=42.0)
        assert await queue.next_batch(10) == ["a"]
        return virtual.now()

    assert 42.0 <= virtual.run(story) < 42.1


def test_a_request_made_while_waiting_wakes_the_waiter_at_once():
    async def story() -> list:
        queue: KeyedQueue[str] = KeyedQueue(clock=virtual.now)
        queue.add("later", delay=1000.0)
        taken = []

        async def worker() -> None:
            while True:
                for key in await queue.next_batch(1):
                    taken.append((round(virtual.now()), key))
                    queue.done(key)

        task = asyncio.create_task(worker())
        for moment in range(1, 6):
            await asyncio.sleep(1.0)
            queue.add(f"k{moment}", urgent=moment % 2 == 0)
        await asyncio.sleep(0.5)
        task.cancel()
        return taken

    assert virtual.run(story) == [(moment, f"k{moment}") for moment in range(1, 6)]


def test_an_empty_queue_waits_for_the_first_key_and_done_wakes_it_too():
    async def story() -> list:
        queue: KeyedQueue[str] = KeyedQueue(clock=virtual.now)
        first = asyncio.create_task(queue.next_batch(5))
        await asyncio.sleep(10.0)
        queue.add("a")
        assert await first == ["a"]
        second = asyncio.create_task(queue.next_batch(5))
        queue.add("a")
        await asyncio.sleep(10.0)
        assert not second.done()
        queue.done("a")
        return list(await second)

    assert virtual.run(story) == ["a"]


def test_a_cancelled_wait_loses_nothing():
    async def story() -> list:
        queue: KeyedQueue[str] = KeyedQueue(clock=virtual.now)
        queue.add("a", delay=5.0)
        waiter = asyncio.create_task(queue.next_batch(5))
        await asyncio.sleep(1.0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        return list(await queue.next_batch(5))

    assert virtual.run(story) == ["a"]


KEYS = st.sampled_from("abcd")
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.sampled_from([0.0, 1.0, 5.0, 5.0, 60.0]), st.booleans()),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("done"), KEYS),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.5, 1.0, 10.0, 100.0])),
        st.tuples(st.just("take"), st.integers(1, 4)),
    ),
    max_size=60,
)


class Model:
    """What the queue is to do, as simply as it can be said."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[float, bool]] = {}
        self.again: dict[str, tuple[float, bool]] = {}
        self.active: set[str] = set()

    def add(self, key: str, due: float, *, urgent: bool) -> None:
        table = self.again if key in self.active else self.waiting
        old = table.get(key, (due, False))
        table[key] = (min(old[0], due), old[1] or urgent)

    def due(self, now: float) -> set[str]:
        return {key for key, (due, _) in self.waiting.items() if due <= now}


@settings(deadline=None)
@given(OPERATIONS)
def test_it_does_what_the_simple_model_does(operations):
    queue, clock = fresh()
    model = Model()
    for operation in operations:
        match operation:
            case ("add", key, delay, urgent):
                queue.add(key, delay=delay, urgent=urgent)
                model.add(key, clock.now + (0.0 if urgent else delay), urgent=urgent)
            case ("remove", key):
                queue.remove(key)
                model.waiting.pop(key, None)
                model.again.pop(key, None)
            case ("done", key):
                queue.done(key)
                model.active.discard(key)
                if key in model.again:
                    model.waiting[key] = model.again.pop(key)
            case ("pass", seconds):
                clock.now += seconds
            case ("take", limit):
                due = model.due(clock.now)
                batch = queue._pop_due(limit)
                assert len(batch) == len(set(batch)) == min(limit, len(due))
                assert set(batch) <= due
                assert not set(batch) & model.active
                ranks = [(not model.waiting[key][1], model.waiting[key][0]) for key in batch]
                assert ranks == sorted(ranks)
                left = [(not model.waiting[key][1], model.waiting[key][0]) for key in due - set(batch)]
                assert not ranks or all(rank >= ranks[-1] for rank in left)
                for key in batch:
                    del model.waiting[key]
                    model.active.add(key)
        assert len(queue) == len(model.waiting)
        assert queue.due == len(model.due(clock.now))
    for key in list(model.active):
        queue.done(key)
        if key in model.again:
            model.waiting[key] = model.again.pop(key)
    clock.now += 1000.0
    assert set(queue._pop_due(100)) == set(model.waiting), "what was asked for is lost, or was never asked for"


def test_it_tells_when_a_waiting_key_is_due():
    queue, clock = fresh()
    assert queue.due_in("a") is None
    queue.add("a", delay=5.0)
    clock.now += 3.0
    assert queue.due_in("a") == 2.0
    clock.now += 3.0
    assert queue.due_in("a") == -1.0
    assert take(queue) == ["a"]
    queue.add("a", delay=5.0)
    assert queue.due_in("a") is None, "a key that is being processed does not wait"
