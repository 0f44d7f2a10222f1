"""Recommendations keep their id while the proposal stays, and a ledger counts nothing twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.savings import LedgerStatus
from optiinfra.api.v1alpha1.status_parts import (
    MAX_RECOMMENDATIONS,
    InsightStatus,
    Severity,
)
from optiinfra.control.recommend import LIFETIME, ledger_of, recommendations_of
from optiinfra.domain.evidence import Direction, RecommendationType
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import NOW, proposal

DAY = 24 * 3600.0


def made(*proposals, old=(), at=NOW, target="t1", uid="u1", texts=None):
    return recommendations_of(
        [(target, item) for item in proposals], old, object_uid=uid, texts=texts or {}, now=UnixTime(at)
    )


def test_the_same_proposal_keeps_id_issue_and_expiry():
    first = made(proposal(), at=NOW + 0.7)
    later = made(proposal(confidence=0.5), old=first, at=NOW + 600)
    assert later[0].id == first[0].id
    assert (later[0].issued_at, later[0].expires_at) == (first[0].issued_at, first[0].expires_at)
    assert later[0].confidence == 0.5, "what changed about it is shown"


@pytest.mark.parametrize(
    "other",
    [
        proposal("4", "3"),
        proposal("5", "2"),
        proposal(subject="another"),
        proposal(setting="minReplicas"),
        proposal(type=RecommendationType.CONSOLIDATION),
    ],
)
def test_another_proposal_has_another_id(other):
    first = made(proposal())
    assert made(other, old=first, at=NOW + 60)[0].id != first[0].id


def test_a_target_that_was_replaced_gets_a_new_id():
    first = made(proposal(), target="t1")
    assert made(proposal(), old=first, target="t2", at=NOW + 60)[0].id != first[0].id


def test_an_id_expires_after_a_day_and_the_proposal_goes_on_under_a_new_one():
    first = made(proposal())
    assert first[0].expires_at.unix == NOW + LIFETIME == NOW + DAY
    assert made(proposal(), old=first, at=NOW + DAY - 1)[0].id == first[0].id
    after = made(proposal(), old=first, at=NOW + DAY + 1)
    assert after[0].id != first[0].id
    assert after[0].expires_at.unix == pytest.approx(NOW + DAY + 1 + DAY, abs=1)


def test_a_proposal_that_went_and_came_back_has_a_new_id():
    first = made(proposal())
    gone = made(old=first, at=NOW + 60)
    assert gone == ()
    assert made(proposal(), old=gone, at=NOW + 120)[0].id != first[0].id


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12), st.lists(st.floats(1, 30 * 3600), min_size=12, max_size=12)
)
def test_an_id_never_stands_for_two_changes(proposed, gaps):
    old, at, meaning = (), float(NOW), {}
    for count, gap in zip(proposed, gaps, strict=False):
        at += gap
        old = made(proposal("10", str(count)), old=old, at=at)
        for item in old:
            key = (item.current, item.proposed, str(item.issued_at))
            assert meaning.setdefault(item.id, key) == key
            assert item.expires_at.unix > at


def test_an_insight_stays_beside_its_recommendation_until_there_is_a_newer_one():
    text = InsightStatus(text="because", rank=1)
    first = made(proposal())
    told = made(proposal(), old=first, texts={first[0].id: text})
    assert told[0].insight == text
    assert made(proposal(), old=told, at=NOW + 60)[0].insight == text
    newer = InsightStatus(text="better", rank=2)
    assert made(proposal(), old=told, texts={told[0].id: newer})[0].insight == newer


def test_urgent_ones_come_first_then_what_saves_most_and_the_list_is_bounded():
    rise = proposal("4", "6", direction=Direction.SCALE_UP, gpus=0.0)
    small = proposal(subject="a", gpus=1.0)
    large = proposal(subject="b", gpus=8.0)
    nothing = proposal(subject="c", gpus=0.0, type=RecommendationType.QUANTIZATION)
    items = made(nothing, small, large, rise)
    assert [item.subject for item in items] == ["vllm", "b", "a", "c"]
    assert [item.severity for item in items] == [Severity.CRITICAL, Severity.WARNING, Severity.WARNING, Severity.INFO]
    many = made(*(proposal(subject=f"n{number}", gpus=0.0) for number in range(50)), rise)
    assert len(many) == MAX_RECOMMENDATIONS
    assert many[0].severity is Severity.CRITICAL


def test_the_same_proposal_twice_in_a_round_is_one():
    assert len(made(proposal(), proposal())) == 1


# the ledger


def ledger(*proposals, kept=None, old=None):
    return ledger_of(made(*proposals), kept or LedgerStatus(), old, currency="USD", now=NOW)


def test_alternatives_for_one_subject_count_once_at_their_largest():
    found = ledger(
        proposal(gpus=2.0, per_month=1000.0),
        proposal(setting="other", gpus=3.0, per_month=1500.0),
        proposal(subject="b", gpus=1.0, per_month=500.0),
    )
    assert found is not None
    assert found.per_month_potential == 2000.0
    assert found.gpus_potential == 4.0
    assert (found.summary, found.currency, found.unknown) == ("2,000 USD", "USD", "")


def test_without_prices_the_ledger_counts_gpus_and_says_what_is_missing():
    found = ledger(proposal(gpus=2.0), proposal(gpus=2.0, setting="x"), proposal(gpus=1.0, subject="b"))
    assert found is not None
    assert found.per_month_potential is None
    assert found.gpus_potential == 3.0
    assert found.summary == "3 GPUs"
    assert "price" in found.unknown
    assert found.currency == ""


def test_a_price_that_is_known_for_a_part_only_says_so():
    found = ledger(proposal(gpus=2.0, per_month=1000.0), proposal(gpus=4.0, subject="unpriced"))
    assert found is not None
    assert found.per_month_potential == 1000.0
    assert found.unknown, "four GPUs are not in the amount"


def test_what_saves_nothing_opens_no_ledger_and_a_ledger_once_opened_keeps_its_beginning():
    assert ledger() is None
    assert ledger(proposal("4", "6", gpus=0.0, direction=Direction.SCALE_UP)) is None
    old = LedgerStatus(since=Time.of(UnixTime(NOW - 999)))
    found = ledger(old=old)
    assert found is not None
    assert found.since == old.since
    assert found.summary == "0 GPUs"


def test_books_keep_the_ledger_open_and_are_shown_as_they_are():
    since = Time.of(UnixTime(NOW - 5))
    kept = LedgerStatus(as_of=Time.of(NOW), since=since, per_month_realised=120.41, next_entry=7)
    found = ledger(kept=kept)
    assert found is not None
    assert (found.per_month_realised, found.next_entry, found.since) == (120.41, 7, since)
    assert found.per_month_potential is None
    assert found.currency == "USD"


def test_a_change_that_costs_money_is_not_a_saving():
    found = ledger(proposal(gpus=0.0, per_month=-300.0), proposal(subject="b", gpus=1.0, per_month=100.0))
    assert found is not None
    assert found.per_month_potential == 100.0
