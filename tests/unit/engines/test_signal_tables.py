"""docs/reference/signals.md against the code: every table as the code has it, every signal told."""

from pathlib import Path

import pytest

from optiinfra.domain.readings import Signal
from tests.unit.engines.signal_tables import everything, untold

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "signals.md"


def rows_under(heading):
    text = PAGE.read_text()
    start = text.index(f"\n## {heading}\n")
    end = text.find("\n## ", start + 1)
    lines = [line for line in text[start : end if end > 0 else None].splitlines() if line.startswith("|")]
    return lines[2:]


@pytest.mark.parametrize("heading", list(everything()))
def test_the_table_is_the_codes(heading):
    assert rows_under(heading) == everything()[heading]


def test_signals_that_are_derived_are_told_in_words():
    text = PAGE.read_text()
    assert untold() <= set(Signal)
    assert not {signal for signal in untold() if f"`{signal}`" not in text}
