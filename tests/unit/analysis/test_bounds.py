"""Breaker, budget, cache, retries, key and settings: pure, with the time as an argument."""

import asyncio
import email.utils

import httpx
import pytest

from optiinfra.analysis.breaker import Breaker, BreakerPolicy, BreakerState
from optiinfra.analysis.budget import TokenBudget
from optiinfra.analysis.cache import AdviceCache, CacheKey
from optiinfra.analysis.errors import BreakerOpen, BudgetExhausted, NotConfigured, RateLimited, ServiceFailed, TimedOut
from optiinfra.analysis.groq_failures import retry_after
from optiinfra.analysis.key import KeyFile
from optiinfra.analysis.retry import Attempts, Failure, RetryPolicy, ask_with_retries
from optiinfra.analysis.settings import AdviserSettings
from optiinfra.api.reasons import Reason
from optiinfra.errors import SettingsError
from tests.unit.analysis.examples import advice

POLICY = BreakerPolicy(failures=2, pause=60.0, longest_pause=150.0)


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(2):
        breaker.admit(now=0.0)
        breaker.failed(now=0.0, cause=Reason.ENDPOINT_UNREACHABLE)
    return breaker


def test_breaker_opens_after_failures_in_a_row_only():
    breaker = Breaker(POLICY)
    breaker.failed(now=0.0, cause=Reason.AUTHENTICATION_FAILED)
    breaker.succeeded()
    breaker.failed(now=0.0, cause=Reason.AUTHENTICATION_FAILED)
    assert breaker.state(now=0.0) is BreakerState.CLOSED
    breaker.failed(now=0.0, cause=Reason.AUTHENTICATION_FAILED)
    assert breaker.state(now=0.0) is BreakerState.OPEN


def test_an_open_breaker_says_why_and_for_how_long():
    with pytest.raises(BreakerOpen, match="for 50 s more after EndpointUnreachable") as raised:
        opened().admit(now=10.0)
    assert raised.value.reason is Reason.ENDPOINT_UNREACHABLE


def test_half_open_admits_one_call_and_a_success_closes():
    breaker = opened()
    assert breaker.state(now=60.0) is BreakerState.HALF_OPEN
    breaker.admit(now=60.0)
    with pytest.raises(BreakerOpen):
        breaker.admit(now=61.0)
    breaker.succeeded()
    breaker.admit(now=61.0)
    assert breaker.state(now=61.0) is BreakerState.CLOSED


def test_a_failed_probe_doubles_the_pause_up_to_its_bound():
    breaker = opened()
    now = 60.0
    for pause in (120.0, 150.0, 150.0):
        breaker.admit(now=now)
        breaker.failed(now=now, cause=Reason.AUTHENTICATION_FAILED)
        assert breaker.state(now=now + pause - 1) is BreakerState.OPEN
        assert breaker.state(now=now + pause) is BreakerState.HALF_OPEN
        now += pause


def test_a_probe_that_never_reports_or_is_withdrawn_does_not_block_for_ever():
    breaker = opened()
    breaker.admit(now=60.0)
    assert breaker.state(now=120.0) is BreakerState.HALF_OPEN
    breaker.withdrawn(now=61.0)
    breaker.admit(now=61.0)


def test_a_pause_that_the_endpoint_asks_for_opens_at_once_and_is_bounded():
    breaker = Breaker(POLICY)
    breaker.failed(now=0.0, cause=Reason.RATE_LIMITED, asked_pause=90.0)
    assert breaker.state(now=89.0) is BreakerState.OPEN
    breaker = Breaker(POLICY)
    breaker.failed(now=0.0, cause=Reason.RATE_LIMITED, asked_pause=1e9)
    assert breaker.state(now=150.0) is BreakerState.HALF_OPEN


DAY = 86_400.0


def test_reservations_count_until_they_are_settled():
    budget = TokenBudget()
    first = budget.reserve("a", 600, daily=1_000, now=DAY)
    with pytest.raises(BudgetExhausted, match="600 of 1000 tokens"):
        budget.reserve("a", 600, daily=1_000, now=DAY)
    budget.reserve("b", 600, daily=1_000, now=DAY)
    budget.settle(first, spent=100)
    assert budget.spent("a", now=DAY) == 100
    budget.reserve("a", 900, daily=1_000, now=DAY)


def test_a_new_utc_day_brings_a_new_budget_and_closes_the_old_account():
    budget = TokenBudget()
    late = budget.reserve("a", 1_000, daily=1_000, now=2 * DAY - 1)
    assert budget.spent("a", now=2 * DAY - 0.5) == 1_000
    today = budget.reserve("a", 400, daily=1_000, now=2 * DAY)
    budget.settle(late, spent=0)
    assert budget.spent("a", now=2 * DAY) == 400
    budget.settle(today, spent=0)
    assert budget.spent("a", now=2 * DAY) == 0


def test_setting_the_clock_back_does_not_hand_the_budget_out_twice():
    budget = TokenBudget()
    budget.reserve("a", 1_000, daily=1_000, now=2 * DAY)
    with pytest.raises(BudgetExhausted):
        budget.reserve("a", 1, daily=1_000, now=DAY)


def test_the_number_of_accounts_is_bounded():
    budget = TokenBudget(max_objects=1)
    budget.reserve("a", 1, daily=10, now=DAY)
    with pytest.raises(BudgetExhausted, match="more than 1 objects"):
        budget.reserve("b", 1, daily=10, now=DAY)
    budget.reserve("a", 1, daily=10, now=DAY)


def test_cache_keeps_the_recent_ones_for_their_time():
    cache = AdviceCache(size=2, time_to_live=100.0)
    keys = [CacheKey(str(index), "m", "1") for index in range(3)]
    cache.put(keys[0], advice(), now=0.0)
    cache.put(keys[1], advice(), now=0.0)
    assert cache.get(keys[0], now=99.0) == advice()
    cache.put(keys[2], advice(), now=99.0)
    assert cache.get(keys[1], now=99.0) is None, "the one used least recently went"
    assert cache.get(keys[0], now=100.0) is None, "and the other one is too old"
    assert len(cache) == 1


@pytest.mark.parametrize("other", [CacheKey("p", "n", "1"), CacheKey("p", "m", "2"), CacheKey("q", "m", "1")])
def test_cache_tells_model_schema_and_question_apart(other):
    cache = AdviceCache()
    cache.put(CacheKey("p", "m", "1"), advice(), now=0.0)
    assert cache.get(other, now=0.0) is None


class Calls:
    """Fails with the given failures, then answers."""

    def __init__(self, *failures: Failure) -> None:
        self.failures = list(failures)

    async def __call__(self) -> str:
        if self.failures:
            raise LookupError
        return "answer"

    def classify(self, _error: Exception) -> Failure:
        return self.failures.pop(0)


QUICK = RetryPolicy(attempts=3, deadline=5.0, attempt_timeout=2.0, first_wait=0.001, longest_wait=0.01)


async def test_a_repeatable_failure_is_repeated_and_accounted():
    calls = Calls(Failure(ServiceFailed("a"), repeatable=True, may_have_spent=True))
    account = Attempts()
    assert await ask_with_retries(calls, classify=calls.classify, policy=QUICK, account=account) == "answer"
    assert (account.made, account.lost) == (2, 1)


@pytest.mark.parametrize(
    ("failure", "made"),
    [
        (Failure(ServiceFailed("a"), repeatable=True), 3),
        (Failure(ServiceFailed("a"), repeatable=False), 1),
        (Failure(RateLimited("a"), repeatable=True, wait=0.005), 3),
        (Failure(RateLimited("a"), repeatable=True, wait=0.02), 1),  # asks for more than a wait may be
    ],
)
async def test_attempts_are_bounded_and_a_long_wait_is_not_cut_short(failure, made):
    calls = Calls(*[failure] * 10)
    account = Attempts()
    with pytest.raises(type(failure.error)):
        await ask_with_retries(calls, classify=calls.classify, policy=QUICK, account=account)
    assert account.made == made


async def test_the_deadline_ends_everything():
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    account = Attempts()
    policy = RetryPolicy(attempts=100, deadline=0.1, attempt_timeout=0.03, first_wait=0.001, longest_wait=0.001)
    with pytest.raises(TimedOut):
        await ask_with_retries(hang, classify=Calls().classify, policy=policy, account=account)
    assert 1 < account.made < 100
    assert account.lost == account.made


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        (email.utils.formatdate(1_060.0, usegmt=True), 60.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header, seconds):
    response = httpx.Response(429, headers={"retry-after": header})
    assert retry_after(response, clock=lambda: 1_000.0) == seconds


def test_key_is_read_each_time(tmp_path):
    path = tmp_path / "key"
    path.write_text("gsk_one\n")
    key = KeyFile(path)
    before = key.fingerprint()
    assert key.read() == "gsk_one"
    path.write_text("gsk_two")
    assert key.read() == "gsk_two"
    assert key.fingerprint() != before


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"a\x00b", b"k" * 5_000])
def test_what_cannot_be_a_key_is_not_configured_and_not_repeated(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(NotConfigured) as raised:
        KeyFile(path).read()
    assert "words" not in str(raised.value)


def test_a_missing_key_file_is_not_configured(tmp_path):
    with pytest.raises(NotConfigured, match="mount the Secret"):
        KeyFile(tmp_path / "key").read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "api.groq.com"}, "not an http"),
        ({"endpoint": "file:///etc/passwd"}, "not an http"),
        ({"endpoint": "https://host:notaport"}, "not an http"),
        ({"endpoint": "https://user:secret@host"}, "holds a user"),
        ({"endpoint": "https://host?x=1"}, "holds a user, query"),
        ({"completions_path": "v1/chat"}, "must start with '/'"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_wrong_settings_say_what_to_do(tmp_path, change, message):
    with pytest.raises(SettingsError, match=message) as raised:
        AdviserSettings(key_file=tmp_path / "key", **change)
    assert "secret" not in str(raised.value)
