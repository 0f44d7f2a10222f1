"""Numbers in sentences: find them, and tell whether each is one of those that were given.

A given number may be said in any usual way: 0.93 as "93%", 0.1 seconds as "100 ms", 85899345920 bytes as "80 GiB",
and rounded to the digits that are shown. A difference or a sum of given numbers is not given: the model's arithmetic
is not checked, it is left out. Number words from two on count as numbers, "one" does not: it is mostly a
pronoun. Words that only make a number out of another one ("double", "half") are arithmetic.
"""

import re
from typing import Final

from optiinfra.analysis.deterministic import shown
from optiinfra.analysis.request import InsightRequest
from optiinfra.analysis.vocabulary import Unit

_NUMBER: Final = re.compile(r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?")
_NAMES: Final = re.compile(r"\b(?:r\d+|p50|p90|p95|p99|fp4|fp8|fp16|bf16|int4|int8)\b", re.IGNORECASE)
"""Words with digits that are names, not numbers. Ids are checked elsewhere."""
_SCALES: Final = {
    Unit.RATIO: (1.0, 100.0),
    Unit.SECONDS: (1.0, 1e3, 1 / 60, 1 / 3600, 1 / 86400),
    Unit.BYTES: (1.0, 2.0**-10, 2.0**-20, 2.0**-30, 2.0**-40, 1e-3, 1e-6, 1e-9, 1e-12),
    Unit.CORES: (1.0, 1e3),
    Unit.MONEY_PER_MONTH: (1.0, 1e-3),
    Unit.TOKENS: (1.0, 1e-3, 1e-6),
    Unit.TOKENS_PER_SECOND: (1.0, 1e-3),
}
_WORDS: Final = {
    word: float(value)
    for value, words in {
        2: "two",
        3: "three",
        4: "four",
        5: "five",
        6: "six",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
        11: "eleven",
        12: "twelve",
        20: "twenty",
        30: "thirty",
        40: "forty",
        50: "fifty",
        60: "sixty",
        70: "seventy",
        80: "eighty",
        90: "ninety",
    }.items()
    for word in words.split()
}
_DERIVED: Final = frozenset(
    [
        "half",
        "halve",
        "halves",
        "halved",
        "halving",
        "twice",
        "double",
        "doubles",
        "doubled",
        "doubling",
        "thrice",
        "triple",
        "triples",
        "tripled",
        "quadruple",
        "dozen",
        "dozens",
        "hundred",
        "hundreds",
        "thousand",
        "thousands",
        "million",
        "millions",
        "billion",
        "billions",
    ]
)
"""Words that make a number out of another one: always the model's own arithmetic."""

_WORD: Final = re.compile(r"[a-z]+")


_NO_SCALES: Final = (1.0,)


def given_numbers(request: InsightRequest) -> tuple[float, ...]:
    """Return every number of the request, in every scale in which people say it."""
    told: list[tuple[float, Unit]] = [(number.value, number.unit) for number in request.signals]
    for candidate in request.candidates:
        told += [(number.value, number.unit) for number in candidate.numbers]
        told.append((candidate.confidence, Unit.RATIO))
        if candidate.savings_per_month is not None:
            told.append((candidate.savings_per_month, Unit.MONEY_PER_MONTH))
    objectives = request.objectives
    told += [
        (objectives.time_to_first_token_p95, Unit.SECONDS),
        (objectives.inter_token_latency_p95, Unit.SECONDS),
        (objectives.queue_delay, Unit.SECONDS),
        (objectives.late_share, Unit.RATIO),
        (float(len(request.candidates)), Unit.COUNT),
    ]
    # As they were shown: the model never saw more digits.
    return tuple(float(shown(value)) * scale for value, unit in told for scale in _SCALES.get(unit, _NO_SCALES))


def ungiven_number(sentence: str, given: tuple[float, ...]) -> str | None:
    """Return the first number of the sentence that was not given, as it was written; None when there is none."""
    for match in _NUMBER.finditer(_NAMES.sub(" ", sentence)):
        digits = match["digits"].replace(",", "")
        written = float(digits + (match["exponent"] or ""))
        decimals = len(digits.partition(".")[2])
        scale = 10.0 ** int((match["exponent"] or "e0")[1:])
        if not _is_given(written, half_step=0.5 * 10.0**-decimals * scale, given=given):
            return match[0]
    for word in _WORD.findall(sentence.lower()):
        if word in _DERIVED or (word in _WORDS and not _is_given(_WORDS[word], half_step=0.0, given=given)):
            return str(word)
    return None


def _is_given(written: float, *, half_step: float, given: tuple[float, ...]) -> bool:
    """Tell whether a given number, rounded or cut to the digits that are written, is the number that is written.

    Neither may turn a number into quite another one (0.4 into "0"), so the difference also stays within 5%.
    """
    for number in given:
        size = abs(number)
        rounded = abs(size - written) <= half_step
        cut = 0 <= size - written < 2 * half_step
        noise = abs(size - written) <= 1e-9 * size
        if noise or ((rounded or cut) and abs(size - written) <= 0.05 * size):
            return True
    return False
