"""Numbers in sentences: find them, and tell whether each is one of those that were given.

A given number may be said in any usual way: 0.93 as "93%", 0.1 seconds as "100 ms", 85899345920 bytes as "80 GiB",
and rounded to the digits that are shown. A difference or a sum of given numbers is not given: the model's arithmetic
is not checked, it is left out. Number words from two on count as numbers, "one" does not: it is mostly a pronoun.
"""

import re
from typing import Final

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
        0.5: "half halve halves halved",
        2: "two twice double doubles doubled doubling",
        3: "three triple triples tripled thrice",
        4: "four quadruple",
        5: "five",
        6: "six",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
        11: "eleven",
        12: "twelve dozen",
        20: "twenty",
        30: "thirty",
        40: "forty",
        50: "fifty",
        60: "sixty",
        70: "seventy",
        80: "eighty",
        90: "ninety",
        100: "hundred hundreds",
        1000: "thousand thousands",
        1e6: "million millions",
    }.items()
    for word in words.split()
}
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
    return tuple(value * scale for value, unit in told for scale in _SCALES.get(unit, _NO_SCALES))


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
        if word in _WORDS and not _is_given(_WORDS[word], half_step=0.0, given=given):
            return str(word)
    return None


def _is_given(written: float, *, half_step: float, given: tuple[float, ...]) -> bool:
    """Tell whether a given number, rounded to the digits that are written, is the number that is written.

    Rounding may not turn a number into quite another one (0.4 into "0"), so the difference stays within 5%; and 1%
    is always allowed, because people cut digits where they should round.
    """
    for number in given:
        difference = abs(written - abs(number))
        size = abs(number)
        if difference <= max(min(half_step * (1 + 1e-9), 0.05 * size), 0.01 * size):
            return True
    return False
