"""Actions in the status: what was applied, what was expected of it beforehand, and what it came to.

Bounded like everything in a status, and times, not ages. The operator reads its own actions back after a restart.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.status_parts import ATOMIC, EffectStatus, Identifier, Measured, Name, Sentence, Short
from optiinfra.domain.evidence import RecommendationType

MAX_ACTIONS = 32
MAX_EXPECTED = 10
MAX_COMPARED = 8


class ActionState(StrEnum):
    """Where an action stands."""

    APPROVED = "Approved"
    APPLIED = "Applied"
    VERIFIED = "Verified"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    FAILED = "Failed"


class Judgement(StrEnum):
    """What an action came to."""

    VERIFIED = "Verified"
    REGRESSED = "Regressed"
    UNKNOWN = "Unknown"


class ComparedStatus(ApiModel):
    """One signal before and after an action."""

    signal: Short
    """What was measured."""
    unit: Short = ""
    """Unit of the values; empty for a plain count."""
    before: Measured
    """Typical value of the windows before the action."""
    after: Measured
    """Typical value of the windows after it."""
    limit: Measured
    """What it was expected to stay below."""
    chance: Measured
    """Chance that noise alone makes it so much larger."""
    control: Measured
    """Times that it grew in the control meanwhile."""


class OutcomeStatus(ApiModel):
    """What an action came to, measured against what was expected and against the time before."""

    verdict: Judgement
    """Verified, Regressed or Unknown; Unknown holds what stands and never leads to fewer replicas."""
    reason: Short
    """Reason code."""
    message: Sentence = ""
    """The verdict in a sentence."""
    at: Time
    """When it was judged."""
    control: Annotated[str, Field(max_length=256)] = ""
    """Replicas that were not touched and served as the control, or "none: " and why there are none."""
    compared: Annotated[tuple[ComparedStatus, ...], Field(max_length=MAX_COMPARED, json_schema_extra=ATOMIC)] = ()
    """The signals that it rests on; of the newest actions only."""
    rests_until: Time | None = None
    """Until when no replicas are taken away because of it."""


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
    reason: Short = ""
    """The rule that asked for it."""
    started_at: Time | None = None
    """When it was ordered; absent for actions that are not watched."""
    verify_until: Time | None = None
    """When it is judged at the latest."""
    expected: Annotated[tuple[EffectStatus, ...], Field(max_length=MAX_EXPECTED, json_schema_extra=ATOMIC)] = ()
    """What was expected of it before it was ordered; of the newest actions only."""
    outcome: OutcomeStatus | None = None
    """What it came to; absent while it is watched."""
