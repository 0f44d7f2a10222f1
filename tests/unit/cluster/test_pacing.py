"""The rate limit and the back-off, on a clock of the test's own."""

from optiinfra.cluster.pacing import Backoff, TokenBucket


def test_a_burst_passes_and_what_follows_waits_its_turn():
    now = [0.0]
    bucket = TokenBucket(rate=10.0, burst=3, clock=lambda: now[0])
    assert [bucket.reserve() for _ in range(5)] == [0.0, 0.0, 0.0, 0.1, 0.2]
    now[0] = 0.2
    assert round(bucket.reserve(), 6) == 0.1


def test_idle_time_saves_no_more_than_the_burst():
    now = [0.0]
    bucket = TokenBucket(rate=10.0, burst=2, clock=lambda: now[0])
    now[0] = 1000.0
    assert [bucket.reserve() > 0 for _ in range(3)] == [False, False, True]


def test_a_clock_that_jumps_back_gives_no_tokens():
    now = [100.0]
    bucket = TokenBucket(rate=10.0, burst=1, clock=lambda: now[0])
    bucket.reserve()
    now[0] = 0.0
    assert bucket.reserve() == 0.1


def test_delays_double_up_to_the_ceiling_and_start_again_after_a_success():
    backoff = Backoff(base_s=1.0, ceiling_s=5.0, jitter=lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


def test_jitter_keeps_the_upper_half():
    assert Backoff(base_s=8.0, ceiling_s=8.0, jitter=lambda: 0.0).next_s() == 4.0
