"""Money of a report: each GPU-hour is booked once, no reserved one is money, and nothing saves more than it cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.money import Account, AccountError, Ledger

HOUR = 3600.0
NO_PRICE = Unknown(UnknownReason.NOT_CONFIGURED, "no price")


def account(held, *, holder="ns/a", gpu="H100", price=2.0, saved=None):
    return Account(holder, gpu, np.array(held, dtype=float), price, price if saved is None else saved)


def ledger(*accounts, reserved=None):
    return Ledger(accounts, step_s=HOUR, reserved=reserved or {})


def freed(*gpus):
    return np.array(gpus, dtype=float)


def test_overlapping_claims_of_one_moment_come_to_the_larger_one():
    one = account([4.0, 4.0])
    book = ledger(one)
    first = book.book([(one, freed(3.0, 0.0))])
    second = book.book([(one, freed(2.0, 2.0))])
    assert (first.counted, first.money) == (3.0, 6.0)
    assert (second.gpu_hours, second.counted, second.money) == (4.0, 2.0, 4.0)


def test_other_gpus_of_one_holder_add_up():
    one = account([16.0])
    book = ledger(one)
    assert book.book([(one, freed(8.0))], apart=True).counted == 8.0
    assert book.book([(one, freed(6.0))], apart=True).counted == 6.0
    assert book.book([(one, freed(8.0))], apart=True).counted == 2.0


def test_what_is_asked_what_a_claim_is_worth_books_nothing():
    one = account([4.0])
    book = ledger(one)
    assert book.worth([(one, freed(3.0))]).money == 6.0
    assert book.book([(one, freed(3.0))]).money == 6.0


def test_a_claim_is_never_more_than_was_held():
    one = account([2.0, 0.0])
    assert ledger(one).book([(one, freed(5.0, 5.0))]).counted == 2.0


def test_reserved_gpus_are_capacity_and_not_money():
    one, other = account([4.0]), account([2.0], holder="ns/b")
    book = ledger(one, other, reserved={"H100": 5.0})
    found = book.book([(one, freed(4.0))])
    # Six are held and five are reserved: one of the four is no longer paid for.
    assert (found.counted, found.unpaid, found.money) == (4.0, 3.0, 2.0)
    assert book.book([(other, freed(2.0))]).money == 0.0


def test_a_reservation_of_another_kind_changes_nothing():
    one = account([4.0])
    assert ledger(one, reserved={"A100": 9.0}).book([(one, freed(1.0))]).money == 2.0


def test_a_node_that_is_paid_for_in_any_case_saves_nothing():
    one = account([4.0], saved=0.0)
    found = ledger(one).book([(one, freed(4.0))])
    assert (found.money, found.unpaid) == (0.0, 4.0)


def test_gpus_without_a_price_are_counted_and_their_money_is_unknown():
    one = account([4.0], price=NO_PRICE, saved=NO_PRICE)
    found = ledger(one).book([(one, freed(1.0))])
    assert found.counted == found.unpriced == 1.0
    assert found.money is NO_PRICE


def test_two_accounts_of_one_holder_and_kind_are_refused():
    with pytest.raises(AccountError, match="join them"):
        ledger(account([1.0]), account([2.0]))


def test_a_claim_on_an_account_that_was_not_opened_is_refused():
    with pytest.raises(AccountError, match="claim what was opened"):
        ledger(account([1.0])).book([(account([1.0], holder="ns/else"), freed(1.0))])


POINTS = 6
gpus = st.lists(st.floats(0.0, 64.0), min_size=POINTS, max_size=POINTS)
wild = st.lists(st.one_of(st.floats(-10.0, 500.0), st.just(float("nan"))), min_size=POINTS, max_size=POINTS)


@given(
    held=st.lists(st.tuples(gpus, st.sampled_from(["H100", "A100"]), st.floats(0.0, 50.0)), min_size=1, max_size=4),
    claims=st.lists(st.tuples(st.integers(0, 3), wild, st.booleans()), max_size=8),
    reserved=st.dictionaries(st.sampled_from(["H100", "A100", "L4"]), st.floats(0.0, 200.0)),
)
def test_nothing_saves_more_than_it_cost_whatever_is_claimed(held, claims, reserved):
    accounts = [account(one, holder=f"ns/{at}", gpu=gpu, price=price) for at, (one, gpu, price) in enumerate(held)]
    book = ledger(*accounts, reserved=reserved)
    cost = sum(book.cost(one) for one in accounts)
    saved = counted = 0.0
    for at, claimed, apart in claims:
        found = book.book([(accounts[at % len(accounts)], np.array(claimed))], apart=apart)
        assert found.counted <= found.gpu_hours + 1e-9
        assert found.money >= 0.0
        saved += found.money
        counted += found.counted
    assert saved <= cost + 1e-6 * max(1.0, cost)
    assert counted <= sum(float(one.held.sum()) for one in accounts) + 1e-6
    # What is reserved stays paid: of each kind and moment only what lies above it is money.
    above = sum(
        float(
            np.maximum(
                np.sum([one.held for one in accounts if one.gpu == gpu], axis=0) - reserved.get(gpu, 0.0), 0.0
            ).sum()
        )
        for gpu in {one.gpu for one in accounts}
    )
    dearest = max(price for _, _, price in held)
    assert saved <= above * dearest + 1e-6 * max(1.0, cost)
