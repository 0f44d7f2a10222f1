import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.analysis.advice import ActionPlan, Dropped, DropReason, Explanation, PlanStep
from optiinfra.analysis.errors import InvalidAnswer, UnknownIds
from optiinfra.analysis.spoken import given_numbers, ungiven_number
from optiinfra.analysis.validation import MAX_EXPLANATION, MAX_SUMMARY, escape, strip_tricks, validate
from optiinfra.analysis.vocabulary import PlanStepKind
from tests.unit.analysis.examples import advice, request


@pytest.mark.parametrize(
    "answer",
    [
        advice(ranking=("r1", "r2", "r3")),
        advice(ranking=("r1", "all")),
        advice(explanations=(Explanation("r3", "x"),)),
        advice(plans=(ActionPlan("R1", ()),)),
    ],
)
def test_an_unknown_id_anywhere_refuses_the_whole_answer(answer):
    with pytest.raises(UnknownIds):
        validate(request(), answer)


@pytest.mark.parametrize(
    "answer",
    [
        advice(ranking=("r1",)),
        advice(ranking=("r1", "r1")),
        advice(explanations=(Explanation("r1", "x"), Explanation("r1", "y"))),
        advice(summary="It is 73% faster."),
        advice(summary="\u200b\u202e \x00"),
    ],
)
def test_an_answer_that_cannot_be_used_is_invalid(answer):
    with pytest.raises(InvalidAnswer) as raised:
        validate(request(), answer)
    assert not isinstance(raised.value, UnknownIds)


def test_sentences_that_cannot_be_verified_go_and_are_counted():
    insight = validate(
        request(),
        advice(
            summary=(
                "Go from 8 to 5 replicas. That is 40% faster. Read https://x.example now. "
                "r7 is better. KV usage is 31%. Double the cache."
            ),
        ),
    )
    assert insight.summary == "Go from 8 to 5 replicas. KV usage is 31%."
    assert insight.dropped == (
        Dropped(DropReason.LINK, 1),
        Dropped(DropReason.UNGIVEN_NUMBER, 2),
        Dropped(DropReason.UNKNOWN_ID, 1),
    )


def test_an_explanation_without_anything_left_is_left_out_and_a_step_keeps_its_kind():
    insight = validate(
        request(),
        advice(
            explanations=(Explanation("r1", "Saves 99 GPUs."), Explanation("r2", "Fits.")),
            plans=(ActionPlan("r1", (PlanStep(PlanStepKind.APPROVE, "See www.x.example."),)),),
        ),
    )
    assert [one.id for one in insight.explanations] == ["r2"]
    assert insight.plans[0].steps == (PlanStep(PlanStepKind.APPROVE, "Approve the recommendation."),)


def test_texts_are_escaped_and_bounded():
    long = "<script>alert</script> & " + "words " * 500
    insight = validate(request(), advice(summary=long, explanations=(Explanation("r1", long),)))
    assert insight.summary.startswith("&lt;script&gt;alert&lt;/script&gt; &amp; words")
    assert len(insight.summary) <= MAX_SUMMARY + 1
    assert insight.summary.endswith("…")
    assert len(insight.explanations[0].text) <= MAX_EXPLANATION + 1


@given(st.text(max_size=300), st.integers(min_value=10, max_value=80))
def test_no_trick_survives_and_no_entity_is_cut(text, limit):
    shown = escape(strip_tricks(text), limit=limit)
    assert len(shown) <= limit + 1
    assert "<" not in shown
    assert ">" not in shown
    assert all(one.isprintable() for one in shown)
    plain = html.unescape(shown.removesuffix("…"))
    assert html.escape(plain, quote=False) == shown.removesuffix("…"), "nothing is half an entity"


@pytest.mark.parametrize("trick", ["\u200b", "\u202e", "\u2066", "\ufeff", "\x1b[31m", "\x00", "\U000e0041", "\ue000"])
def test_invisible_characters_go(trick):
    assert "\x1b" not in strip_tricks(f"a{trick}b")
    assert strip_tricks(f"a{trick}b") in {"ab", "a[31mb"}


GIVEN = given_numbers(request())  # 8, 5, 0.314159 ratio, 21900 and 100 a month, 0.9, 17, objectives


@pytest.mark.parametrize(
    "sentence",
    [
        "KV-cache usage is 31%.",
        "Usage is 0.31, or 31.4 percent.",
        "From 8 to 5 replicas (r1).",
        "It saves $21,900 a month.",
        "About 21.9 k a month.",
        "Seventeen is spoken, 17 is written.",
        "p95 stays below 100 ms, the objective of 2 seconds holds.",
        "Switch to fp8 or int4.",
        "One replica less at a time.",
        "Two candidates stand.",
        "nothing numeric here",
        "eight replicas become five",
    ],
)
def test_given_numbers_may_be_said_as_people_say_them(sentence):
    assert ungiven_number(sentence, GIVEN) is None


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("It frees 3 replicas.", "3"),
        ("It frees three replicas.", "three"),
        ("73% faster.", "73"),
        ("Usage is .93 now.", ".93"),
        ("Usage is 0.32.", "0.32"),
        ("Saves 262,800 a year.", "262,800"),
        ("Cut it by half.", "half"),
        ("Use v0.8.1.", "0.8"),
        ("Set it to 1e9.", "1e9"),
        ("Use \uff17\uff13 of them.", "\uff17\uff13"),
        ("Use \u0664\u0662 of them.", "\u0664\u0662"),
        ("thousands of requests", "thousands"),
        ("Usage is 0.", "0"),
    ],
)
def test_other_numbers_are_found_however_they_are_written(sentence, number):
    assert ungiven_number(sentence, GIVEN) == number
