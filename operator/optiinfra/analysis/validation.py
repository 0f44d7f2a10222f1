"""What of an answer may be shown: ids that exist, numbers that were given, text without tricks.

An id that was never asked about makes the whole answer worthless: the model is talking about something else, so
nothing it says is kept (`UnknownIds`). A number that was not given is treated sentence by sentence: small models
often add one figure of their own ("about 30% faster") to an otherwise right answer, and refusing everything would
spend tokens for nothing, while showing it flagged would still show an invented number beside measured ones. So the
sentence goes, and is counted. Sentences with links go too. What remains is stripped of control, zero-width and
bidirectional characters, escaped for HTML and cut to length. If no summary remains, the answer is refused.

It cannot judge words: a sentence without numbers may still be wrong. That is why the ranking changes nothing but the
order of what is shown, and why every insight says who wrote it.
"""

import html
import re
import unicodedata
from collections import Counter
from typing import Final

from optiinfra.analysis.advice import ActionPlan, Advice, Dropped, DropReason, Explanation, Insight, PlanStep
from optiinfra.analysis.deterministic import NAME as DETERMINISTIC
from optiinfra.analysis.deterministic import STEP_TEXTS
from optiinfra.analysis.errors import InvalidAnswer, UnknownIds
from optiinfra.analysis.request import InsightRequest
from optiinfra.analysis.spoken import given_numbers, ungiven_number

MAX_SUMMARY: Final = 500
MAX_EXPLANATION: Final = 400
MAX_STEP: Final = 200
MAX_STEPS: Final = 8
MAX_RAW: Final = 4_000
"""Characters of one text that are looked at; the rest is cut unseen."""

_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+")
_LINK: Final = re.compile(r"://|\bwww\.|\]\(|\bmailto:|\bjavascript:", re.IGNORECASE)
_CANDIDATE: Final = re.compile(r"\br[0-9]+\b", re.IGNORECASE)
_WHITESPACE: Final = re.compile(r"\s+")


def validate(request: InsightRequest, advice: Advice) -> Insight:
    """Check an answer against the question.

    Raises:
        UnknownIds: the answer names a candidate that was not asked about.
        InvalidAnswer: the ranking is not the candidates, each once, or nothing verifiable is left of the summary.
    """
    check_ids(request, advice)
    if advice.provenance.adviser == DETERMINISTIC:
        # Its sums and counts are computed here from the numbers given; the sentence check is for text from outside.
        cleaner = _Cleaner(request, trusted=True)
    else:
        cleaner = _Cleaner(request, trusted=False)
    summary = cleaner.clean(advice.summary, limit=MAX_SUMMARY)
    if not summary:
        raise InvalidAnswer("nothing in the model's summary could be verified")
    explanations = [Explanation(one.id, cleaner.clean(one.text, limit=MAX_EXPLANATION)) for one in advice.explanations]
    plans = [
        ActionPlan(
            one.id,
            tuple(
                PlanStep(step.kind, cleaner.clean(step.text, limit=MAX_STEP) or STEP_TEXTS[step.kind])
                for step in one.steps[:MAX_STEPS]
            ),
        )
        for one in advice.plans
    ]
    return Insight(
        summary=summary,
        ranking=advice.ranking,
        explanations=tuple(one for one in explanations if one.text),
        plans=tuple(plans),
        provenance=advice.provenance,
        dropped=tuple(Dropped(reason, count) for reason, count in sorted(cleaner.dropped.items())),
    )


def check_ids(request: InsightRequest, advice: Advice) -> None:
    """Refuse an answer that is not about exactly the candidates of the question.

    Raises:
        UnknownIds: an id that was not asked about.
        InvalidAnswer: an id twice, or one missing in the ranking.
    """
    known = set(request.candidate_ids)
    explained = [one.id for one in advice.explanations]
    planned = [one.id for one in advice.plans]
    unknown = {one for ids in (advice.ranking, explained, planned) for one in ids if one not in known}
    if unknown:
        raise UnknownIds(f"the model named {len(unknown)} recommendation(s) that do not exist")
    for field, ids in (("ranking", list(advice.ranking)), ("explanations", explained), ("action plans", planned)):
        if len(set(ids)) != len(ids):
            raise InvalidAnswer(f"the model's {field} name a recommendation twice")
    if len(advice.ranking) != len(known):
        raise InvalidAnswer(f"the model ranked {len(advice.ranking)} of {len(known)} recommendations")


def strip_tricks(text: str) -> str:
    """Remove what is not seen or changes how the rest is seen: control, format, private and unassigned characters."""
    visible = "".join(
        " " if unicodedata.category(one) in {"Zl", "Zp", "Zs"} or one in "\t\n\r" else one
        for one in unicodedata.normalize("NFKC", text[:MAX_RAW])
        if one in "\t\n\r" or not unicodedata.category(one).startswith("C")
    )
    return _WHITESPACE.sub(" ", visible).strip()


def escape(text: str, *, limit: int) -> str:
    """Escape text for HTML and cut it to `limit` characters, never inside an entity."""
    kept: list[str] = []
    room = limit
    for position, one in enumerate(text):
        escaped = html.escape(one, quote=False)
        last = position == len(text) - 1
        if len(escaped) > room or (len(escaped) == room and not last):
            return "".join(kept).rstrip() + "…"
        kept.append(escaped)
        room -= len(escaped)
    return "".join(kept)


class _Cleaner:
    """Cleans the texts of one answer and counts what it left out."""

    def __init__(self, request: InsightRequest, *, trusted: bool) -> None:
        self._trusted = trusted
        self._known = set(request.candidate_ids)
        self._given = given_numbers(request)
        self.dropped: Counter[DropReason] = Counter()

    def clean(self, text: str, *, limit: int) -> str:
        kept: list[str] = []
        for sentence in _SENTENCE_END.split(strip_tricks(text)):
            reason = None if self._trusted else self._objection(sentence)
            if reason is None:
                kept.append(sentence)
            else:
                self.dropped[reason] += 1
        return escape(" ".join(kept), limit=limit)

    def _objection(self, sentence: str) -> DropReason | None:
        if _LINK.search(sentence):
            return DropReason.LINK
        if any(found.lower() not in self._known for found in _CANDIDATE.findall(sentence)):
            return DropReason.UNKNOWN_ID
        if ungiven_number(sentence, self._given) is not None:
            return DropReason.UNGIVEN_NUMBER
        return None
