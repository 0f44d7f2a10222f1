"""The closed sets follow the domain: a new signal, unit, statistic or reason code that is not listed is never told."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from optiinfra.analysis.deterministic import DeterministicAdviser
from optiinfra.analysis.vocabulary import NumberName, ReasonCode, Statistic, Unit
from optiinfra.domain.evidence import FindingType
from optiinfra.domain.scaling import Rule
from tests.unit.analysis.examples import candidate, request

SOURCES = Path(__file__).parents[3] / "operator" / "optiinfra"
# Evidence of verification and of findings that are no proposals' is not told.
FILES = [*(SOURCES / "domain").glob("*.py"), SOURCES / "control" / "analyze.py"]


def literals(*constructors: str, field: str, position: int) -> Iterator[str]:
    """Yield the literal values that the sources give one field of one dataclass, or of what builds it."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in constructors:
                given = {one.arg: one.value for one in node.keywords}
                value = given.get(field, node.args[position] if len(node.args) > position else None)
                for each in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                    if isinstance(each, ast.Constant):
                        yield each.value


@pytest.mark.parametrize(
    ("field", "position", "kind"), [("signal", 0, NumberName), ("unit", 2, Unit), ("statistic", 5, Statistic)]
)
def test_every_word_of_evidence_is_listed(field, position, kind):
    found = set(literals("Evidence", field=field, position=position))
    assert found, "the sources give literals"
    assert found <= {str(member) for member in kind}


def test_every_reason_of_a_proposal_is_listed():
    found = {*literals("Proposal", field="reason", position=1), *literals("propose", field="reason", position=0)}
    found |= set(literals("proposal", "_proposal", field="reason", position=9))
    assert {"RaiseKVMemory", "QuantiseForLatency", "RaiseStepTokens"} <= found
    known = {str(code) for code in ReasonCode}
    assert found <= known
    assert {str(rule) for rule in Rule} <= known
    assert {str(FindingType.IDLE_GPU), str(FindingType.EMPTYABLE_NODE)} <= known


def test_every_reason_is_explained_in_its_own_words():
    texts = {
        DeterministicAdviser().answer(request(candidate("r1", reason=code))).explanations[0].text for code in ReasonCode
    }
    assert len(texts) == len(ReasonCode)
