"""Parts that the statuses of several kinds share: evidence, recommendations, actions, savings.

All lists and texts are bounded. A number that is not known is the reason why, in its own field: never null, never
zero. Times, not ages, so that an idle object's status does not change by itself.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel, Rule
from optiinfra.api.scalars import Duration, Time
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType

MAX_RECOMMENDATIONS = 32
MAX_ACTIONS = 32
MAX_REFUSALS = 16
MAX_EVIDENCE = 16
MAX_EFFECTS = 4
MAX_APPROVALS = 64
MAX_TARGETS = 8

Short = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Sentence = Annotated[str, Field(max_length=1024)]
Identifier = Annotated[str, Field(min_length=1, max_length=32)]
Number = Annotated[float, Field()]
Percent = Annotated[
    int | Short,
    Field(union_mode="left_to_right"),
]
"""A share in percent, in steps of 5, or the reason why it is not known."""
Count = Annotated[int, Field(ge=0, le=1_000_000)]

MAP_BY_ID = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]}
MAP_BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
MAP_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
ATOMIC = {"x-kubernetes-list-type": "atomic"}


class Severity(StrEnum):
    """How much a recommendation matters."""

    CRITICAL = "Critical"
    WARNING = "Warning"
    INFO = "Info"


class ActionState(StrEnum):
    """Where an action stands."""

    APPROVED = "Approved"
    APPLIED = "Applied"
    VERIFIED = "Verified"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    FAILED = "Failed"


class Measured(ApiModel):
    """A number, or why there is none."""

    value: Number | None = None
    """The number, where it was measured."""
    unknown: Annotated[str, Field(max_length=256)] | None = None
    """Why it is not known, where it was not."""

    RULES = (
        Rule(
            cel="has(self.value) != has(self.unknown)",
            message="exactly one of value and unknown must be set",
            holds=lambda m: (m.value is None) != (m.unknown is None),
        ),
    )


class EvidenceStatus(Measured):
    """One measured fact behind a verdict."""

    signal: Short
    """Name of the signal."""
    unit: Short = ""
    """Unit of the value; empty for a plain count."""
    window: Duration = Duration("0s")
    """Span of time that the value speaks about."""
    source: Short
    """Where it was measured: engine, agent, kubernetes, derived."""
    statistic: Short = "last"
    """How the window was summed up: last, mean, max, p95, sum, rate."""


class EffectStatus(ApiModel):
    """What a change is predicted to do to one signal."""

    signal: Short
    """What changes."""
    unit: Short = ""
    """Unit of the values; empty for a plain count."""
    before: Measured
    """Its value now."""
    lower: Measured
    """Least that is expected."""
    expected: Measured
    """What is expected."""
    upper: Measured
    """Most that is expected."""
    basis: Annotated[str, Field(max_length=256)] = ""
    """The formula or the fit that the prediction rests on."""


class SavingsStatus(ApiModel):
    """What a change would save; capacity is money only once it is given back."""

    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs freed."""
    cpu_cores: Annotated[float, Field(ge=0)] = 0.0
    """CPU cores freed."""
    memory_gib: Annotated[float, Field(ge=0, alias="memoryGiB")] = 0.0
    """Memory freed, GiB."""
    per_month: Number | None = None
    """Money a month, in the ledger's currency; absent when no price is known."""


class InsightStatus(ApiModel):
    """What a language model says about a recommendation. It explains and ranks; it never sets a number."""

    text: Annotated[str, Field(max_length=2048)]
    """The explanation."""
    rank: Annotated[int, Field(ge=1, le=MAX_RECOMMENDATIONS)]
    """Place among the object's recommendations, 1 first."""
    model: Annotated[str, Field(max_length=128)] = ""
    """Model that wrote it."""
    at: Time | None = None
    """When it was written."""


class RecommendationStatus(ApiModel):
    """A proposed change, with everything needed to argue with it."""

    id: Identifier
    """Approve it by this id; used once."""
    type: RecommendationType
    """What is changed."""
    reason: Short
    """Reason code."""
    message: Sentence
    """The proposal in a sentence."""
    severity: Severity = Severity.INFO
    """How much it matters."""
    setting: Annotated[str, Field(max_length=256)]
    """The setting that would change."""
    current: Annotated[str, Field(max_length=256)]
    """Its value now."""
    proposed: Annotated[str, Field(max_length=256)]
    """Its proposed value."""
    lower: Annotated[str, Field(max_length=256)]
    """Lowest value with which the analysis would still agree."""
    upper: Annotated[str, Field(max_length=256)]
    """Highest value with which the analysis would still agree."""
    direction: Direction
    """Which mode and approval it falls under."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    """0 to 1, in steps of 0.05."""
    subject: Name = ""
    """What it is about, when not the whole object: a container, a node, a GPU."""
    evidence: Annotated[tuple[EvidenceStatus, ...], Field(max_length=MAX_EVIDENCE, json_schema_extra=ATOMIC)] = ()
    """The facts behind it."""
    savings: SavingsStatus = SavingsStatus()
    """What it would save."""
    patch: Annotated[str, Field(max_length=4096)] = ""
    """A ready patch, where one can be written. The operator never applies it."""
    effects: Annotated[tuple[EffectStatus, ...], Field(max_length=MAX_EFFECTS, json_schema_extra=ATOMIC)] = ()
    """What it is predicted to do, most important first."""
    risk: Annotated[str, Field(max_length=512)] = ""
    """What can go wrong."""
    verification: Annotated[str, Field(max_length=512)] = ""
    """How to see that it worked."""
    undo: Annotated[str, Field(max_length=512)] = ""
    """How to take it back."""
    issued_at: Time
    """When it was made."""
    expires_at: Time
    """When its id stops being valid."""
    insight: InsightStatus | None = None
    """What a language model says about it."""


class ActionStatus(ApiModel):
    """A recommendation that was applied, or refused."""

    id: Identifier
    """Identity of the action."""
    recommendation_id: Identifier
    """The recommendation it came from."""
    type: RecommendationType
    """What was changed."""
    subject: Name = ""
    """What was changed, when not the whole object: the target of a service, a container."""
    state: ActionState
    """Where it stands."""
    from_: Annotated[str, Field(max_length=256, alias="from")]
    """Value before."""
    to: Annotated[str, Field(max_length=256)]
    """Value after."""
    at: Time
    """When the state was reached."""
    message: Sentence = ""
    """What happened, in a sentence."""


class RefusalStatus(ApiModel):
    """Something that was considered and not proposed."""

    type: RecommendationType
    """What would have changed."""
    reason: Short
    """Reason code."""
    message: Sentence
    """Why not, in a sentence."""


class AlternativeStatus(ApiModel):
    """The next best class of bottleneck."""

    type: Bottleneck
    """The limit, in one word."""
    message: Annotated[str, Field(max_length=512)] = ""
    """What would have to be true for it."""


class BottleneckStatus(ApiModel):
    """What limits the service."""

    type: Bottleneck
    """The limit, in one word."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    """0 to 1, in steps of 0.05."""
    reason: Short
    """Reason code."""
    message: Sentence = ""
    """The verdict in a sentence."""
    since: Time
    """Since when it holds."""
    alternative: AlternativeStatus | None = None
    """The next best class, and what would have to be true for it."""
    evidence: Annotated[tuple[EvidenceStatus, ...], Field(max_length=MAX_EVIDENCE, json_schema_extra=ATOMIC)] = ()
    """The facts behind it."""


class RoundStatus(ApiModel):
    """The last round that changed this status."""

    id: Annotated[str, Field(max_length=64)]
    """Its id, also in the logs."""
    at: Time
    """When it ended."""


class UsedApproval(ApiModel):
    """An approval that was used; an id works once."""

    id: Identifier
    """The recommendation."""
    at: Time
    """When it was used."""
