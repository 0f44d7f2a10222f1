"""Parts that the statuses of several kinds share: evidence, recommendations, actions, savings.

All lists and texts are bounded. A number that is not known is the reason why, in its own field: never null, never
zero. Times, not ages, so that an idle object's status does not change by itself.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel, Rule
from optiinfra.api.scalars import Duration, Time
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType

MAX_RECOMMENDATIONS = 32
MAX_REFUSALS = 16
MAX_EVIDENCE = 16
MAX_EFFECTS = 4
MAX_APPROVALS = 64
MAX_RESIZES = 8
MAX_REHEARSED = 16
MAX_BODY = 4096
MAX_TARGETS = 8
MAX_REQUESTED = 8

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
    place: Annotated[str, Field(max_length=256)] | None = None
    """Where it was measured: node, and GPU or container; absent where it is about the whole subject."""


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


class EnvelopeStatus(ApiModel):
    """Replica counts between which the operator may move once a person has approved them."""

    lowest: Count
    """Fewest replicas that it may order."""
    highest: Count
    """Most replicas that it may order."""
    max_step: Count
    """Replicas that one order may add or remove."""


class PlaceStatus(ApiModel):
    """The manifest that a change is written into."""

    api_version: Annotated[str, Field(max_length=253)]
    """API group and version."""
    kind: Annotated[str, Field(max_length=63)]
    """Kind."""
    name: Name
    """Name, in the namespace of the recommendation's object."""
    container: Annotated[str, Field(max_length=63)] = ""
    """Container of its pod template; empty where the change is of the object itself, or where it is not known."""


class TrackRecordStatus(ApiModel):
    """What became of earlier actions of the same rule on the same workload; part of the confidence."""

    verified: Count = 0
    """Actions that did what was expected; old ones fade."""
    regressed: Count = 0
    """Actions that did harm; old ones fade."""
    unknown: Count = 0
    """Actions that could not be judged."""
    message: Sentence = ""
    """What happened last, where the workload rests for it."""
    rests_until: Time | None = None
    """Until when no replicas are taken away."""


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
    track_record: TrackRecordStatus | None = None
    """What became of earlier actions of the same kind; absent where there were none."""
    envelope: EnvelopeStatus | None = None
    """For replicas: what an approval of the id allows, for 24 h from the approval."""
    place: PlaceStatus | None = None
    """For changes of a manifest: whose it is; a patch of it is offered, never applied."""


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
    requested: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=MAX_REQUESTED, json_schema_extra=ATOMIC)
    ] = ()
    """Ids of the newest rounds that callers of POST /api/v1/optimize/run were promised and that were done, oldest
    first; they stay when later rounds write."""


class HistoryStatus(ApiModel):
    """The history that was read from a metrics server for what no checkpoint knew."""

    at: Time
    """When it was read."""
    since: Time | None = None
    """Since when there was any; absent where there was none."""
    samples: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Samples that were read, those of other objects in the same reading included."""
    message: Sentence = ""
    """What was missing; empty when nothing was."""


class ApprovalState(StrEnum):
    """Where an approval stands."""

    STANDING = "Standing"
    """It allows what its envelope says."""
    USED = "Used"
    """It was used up by one change."""
    EXPIRED = "Expired"
    """Its 24 h are over."""
    REVOKED = "Revoked"
    """Its id was taken out of the annotation; it does not come back."""


class UsedApproval(ApiModel):
    """An approval that was used; an id works once."""

    id: Identifier
    """The recommendation."""
    at: Time
    """When it was used first."""
    subject: Name = ""
    """What it is about: the target, or the container."""
    state: ApprovalState = ApprovalState.USED
    """Where it stands."""
    envelope: EnvelopeStatus | None = None
    """For replicas: what it allows until it ends."""
    until: Time | None = None
    """For replicas: until when it allows it."""
    removed_at: Time | None = None
    """When its id was taken out of the annotation; put back, it is refused."""


class ResizeState(StrEnum):
    """Where a resize of running pods stands."""

    RESIZING = "Resizing"
    """Pods get the new size, one after the other."""
    WAITING = "Waiting"
    """The next pod has to wait; the reason says for what."""
    RESIZED = "Resized"
    """All pods have the new size, until the next rollout."""
    ROLLED_BACK = "RolledBack"
    """A pod could not be given the new size; all have the old one again."""
    REFUSED = "Refused"
    """It cannot be done to running pods; the patch is how to do it."""
    ENDED = "Ended"
    """A rollout has brought pods of the template's size."""


class ResizeStatus(ApiModel):
    """A change of running pods' requests. It lasts until the next rollout; `patch` makes it last."""

    id: Identifier
    """The recommendation."""
    subject: Name
    """The container, with its variant in front where there are several."""
    setting: Annotated[str, Field(max_length=256)]
    """What is changed."""
    from_: Annotated[str, Field(max_length=256, alias="from")]
    """Request, and limit where that moves too, before."""
    to: Annotated[str, Field(max_length=256)]
    """Request, and limit where that moves too, after."""
    state: ResizeState
    """Where it stands."""
    reason: Short
    """Reason code, the kubelet's own where it has one: Deferred, Infeasible."""
    message: Sentence = ""
    """What happened, in a sentence."""
    revision: Name = ""
    """Revision of the pod template whose pods are resized."""
    pod: Name = ""
    """The pod that is under way; empty while none is."""
    done: Count = 0
    """Pods that have the new size."""
    pods: Count = 0
    """Pods of the revision."""
    at: Time
    """When the state was reached."""
    patch: Annotated[str, Field(max_length=MAX_BODY)] = ""
    """The same change of the pod template, to make it last; the operator never applies it."""


class RehearsedWrite(ApiModel):
    """One request that would be sent."""

    method: Short
    """HTTP method."""
    path: Annotated[str, Field(max_length=1024)]
    """Path and query on the API server."""
    content_type: Short
    """Content type of the body."""
    field_manager: Short = ""
    """Field manager that the API server would note; empty for a deletion."""
    body: Annotated[str, Field(max_length=MAX_BODY)] = ""
    """The body as JSON; one that is longer is cut, and ends with an ellipsis."""


class RehearsedCount(ApiModel):
    """One replica count that would be published."""

    name: Name
    """Name under which it would be published."""
    replicas: Count
    """The count."""


class DryRunStatus(ApiModel):
    """What would have been done: the annotation optiinfra.io/dry-run is "true", and nothing was."""

    at: Time
    """When it was worked out."""
    writes: Annotated[tuple[RehearsedWrite, ...], Field(max_length=MAX_REHEARSED, json_schema_extra=ATOMIC)] = ()
    """Requests that would be sent, in order."""
    more: Count = 0
    """Further requests that are not listed."""
    published: Annotated[tuple[RehearsedCount, ...], Field(max_length=MAX_TARGETS, json_schema_extra=ATOMIC)] = ()
    """Replica counts that scalers would read."""


class TakeoverStatus(ApiModel):
    """A minReplicas that was taken from managers that only updated it: `takeover: Once` is used up by it."""

    name: Name
    """The target."""
    scaler: Name
    """The HorizontalPodAutoscaler."""
    manager: Annotated[str, Field(max_length=128)]
    """Who owned the field."""
    value: Count
    """What it was."""
    at: Time
    """When it was decided; the write comes after that, or not at all."""


class OtherOperatorStatus(ApiModel):
    """Another installation of the operator that sees this object too, and leaves it to this one."""

    name: Name
    """Its namespace and Lease."""
    at: Time
    """When it last asked."""
    answered: StrictBool = False
    """Whether the operator that looks after the object has heard it."""
