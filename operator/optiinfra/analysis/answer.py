"""The shape of a model's answer: the strict JSON schema that is sent, and the reader of what comes back.

The schema is flat, everything is required and nothing has bounds: strict decoding supports no more, and a nested or
bounded schema is refused by the service or silently not enforced. Bounds are checked here, after the fact. The schema
is written out instead of generated, because generators put in `$defs`, titles and defaults that strict mode refuses.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from optiinfra.analysis.advice import ActionPlan, Advice, Explanation, PlanStep, Provenance
from optiinfra.analysis.errors import InvalidAnswer
from optiinfra.analysis.vocabulary import PlanStepKind

NAME: Final = "optiinfra_insight"
MAX_ENTRIES: Final = 128
"""Entries in one list of an answer; more are a runaway model."""


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Final[dict[str, Any]] = {"type": "string"}

SCHEMA: Final[dict[str, Any]] = _object(
    summary=_TEXT,
    ranking={"type": "array", "items": _TEXT},
    explanations={"type": "array", "items": _object(id=_TEXT, text=_TEXT)},
    steps={
        "type": "array",
        "items": _object(id=_TEXT, kind={"type": "string", "enum": [str(kind) for kind in PlanStepKind]}, text=_TEXT),
    },
)

RESPONSE_FORMAT: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {"name": NAME, "strict": True, "schema": SCHEMA},
}
"""Sent as it is. LangChain's own helper drops `strict` without a word for models that it does not know."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _ExplanationModel(_Model):
    id: str
    text: str


class _StepModel(_Model):
    id: str
    kind: PlanStepKind
    text: str


class _AnswerModel(_Model):
    summary: str
    ranking: tuple[str, ...]
    explanations: tuple[_ExplanationModel, ...]
    steps: tuple[_StepModel, ...]


def read_answer(text: str, *, provenance: Provenance) -> Advice:
    """Read a model's answer.

    Raises:
        InvalidAnswer: it is not JSON, or not of the schema. The message holds nothing of the answer.
    """
    try:
        answer = _AnswerModel.model_validate_json(text)
    except ValidationError as error:
        kind = error.errors(include_input=False, include_context=False, include_url=False)[0]["type"]
        raise InvalidAnswer(f"the model's answer breaks the schema ({kind})") from None  # its text stays behind
    for field, entries in (("ranking", answer.ranking), ("explanations", answer.explanations), ("steps", answer.steps)):
        if len(entries) > MAX_ENTRIES:
            raise InvalidAnswer(f"the model's answer holds {len(entries)} {field}; at most {MAX_ENTRIES} are read")
    plans: dict[str, list[PlanStep]] = {}
    for step in answer.steps:
        plans.setdefault(step.id, []).append(PlanStep(step.kind, step.text))
    return Advice(
        summary=answer.summary,
        ranking=answer.ranking,
        explanations=tuple(Explanation(one.id, one.text) for one in answer.explanations),
        plans=tuple(ActionPlan(one, tuple(steps)) for one, steps in plans.items()),
        provenance=provenance,
    )
