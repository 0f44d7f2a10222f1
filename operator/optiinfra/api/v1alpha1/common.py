"""Parts that several kinds share in their specs: references, modes, objectives, insights, policy, prices.

Everything that a `ClusterResourceOptimization` may give as a default for all objects has no default in the schema:
the API server would fill it in and hide that nobody chose it. What holds in the end is worked out in
`optiinfra.api.conversion.effective`; the descriptions tell the built-in values.
"""

from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel, Rule, Unique
from optiinfra.api.bounds import DurationBetween, ShareBetween
from optiinfra.api.errors import InvalidValue
from optiinfra.api.scalars import Amount, Duration, Label, ObjectName, Share, Text, Time
from optiinfra.domain.policy import Mode

__all__ = [
    "IMMUTABLE_TARGET",
    "BlackoutDirection",
    "BlackoutWindow",
    "Committed",
    "Cooldowns",
    "InsightsSpec",
    "MaintenanceWindow",
    "Mode",
    "Modes",
    "NameRef",
    "ObjectivesSpec",
    "PolicySpec",
    "Prices",
    "Switch",
    "TargetRef",
    "TimeOfDay",
    "TimeZone",
    "Weekday",
]


class Weekday(StrEnum):
    """Days of a maintenance window."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


class BlackoutDirection(StrEnum):
    """What a blackout holds back besides falls and resizes."""

    SCALE_UP = "ScaleUp"


class TimeOfDay(Text):
    """A time of day, 00:00 to 23:59."""

    __slots__ = ()
    MAX_LENGTH = 5
    PATTERN = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
    MESSAGE = 'write a time of day in quotes, such as "22:30"'

    @property
    def minutes(self) -> int:
        """Minutes since midnight."""
        return int(self[:2]) * 60 + int(self[3:])


class TimeZone(Text):
    """A time zone of the IANA database."""

    __slots__ = ()
    MAX_LENGTH = 64
    PATTERN = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$"
    MESSAGE = "write a time zone of the IANA database, such as UTC or Europe/Berlin"

    @classmethod
    def check(cls, text: str) -> Self:
        """Refuse a zone that is not in this machine's database; the API server knows the grammar only."""
        zone = super().check(text)
        if zone != "UTC":
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, OSError, ValueError) as error:
                raise InvalidValue(f"{text!r} is not known here: {cls.MESSAGE}") from error
        return zone


class TargetRef(ApiModel):
    """Reference to a workload with a scale subresource, in the same namespace."""

    api_version: Annotated[str, Field(min_length=2, max_length=253)]
    """API group and version, such as apps/v1."""
    kind: Annotated[str, Field(min_length=1, max_length=63)]
    """Kind, such as Deployment, StatefulSet or LeaderWorkerSet."""
    name: ObjectName
    """Name of the workload."""


class NameRef(ApiModel):
    """Reference by name."""

    name: Label
    """Name of what is referred to."""


class Switch(ApiModel):
    """A part of the analysis that can be switched off."""

    enabled: StrictBool = True
    """Whether this is analysed."""


class Modes(ApiModel):
    """Modes per direction; a direction that is left out follows `mode`."""

    scale_up: Mode | None = None
    """Adding replicas."""
    scale_down: Mode | None = None
    """Removing replicas."""
    resize: Mode | None = None
    """Changing requests of running pods."""


class ObjectivesSpec(ApiModel):
    """What the service promises; decisions keep it."""

    time_to_first_token_p95: Annotated[Duration, DurationBetween("1ms", "1h")] | None = None
    """95th percentile of the time to the first token. Built-in: 2s."""
    inter_token_latency_p95: Annotated[Duration, DurationBetween("1ms", "1m")] | None = None
    """95th percentile of the time between tokens. Built-in: 100ms."""
    queue_delay: Annotated[Duration, DurationBetween("1ms", "24h")] | None = None
    """Work that waits longer counts as late. Built-in: 10s."""
    late_share: Annotated[Share, ShareBetween(0, 0.5)] | None = None
    """Share of the work that may be late. Built-in: "0.01"."""


class InsightsSpec(ApiModel):
    """Text and ranking by a language model about recommendations that the analysis already made."""

    enabled: StrictBool | None = None
    """Whether insights are asked for, where the operator has an endpoint. Built-in: true."""
    daily_token_budget: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """Tokens a day that may be spent on this object. Built-in: 50000."""


class MaintenanceWindow(ApiModel):
    """A span of the week in which changes are allowed."""

    days: Annotated[
        tuple[Weekday, ...],
        Field(min_length=1, max_length=7, json_schema_extra={"x-kubernetes-list-type": "set"}),
        Unique(),
    ]
    """Days on which the window opens."""
    start: TimeOfDay
    """When it opens, in its time zone."""
    duration: Annotated[Duration, DurationBetween("1m", "24h")]
    """How long it stays open; it may run past midnight."""
    time_zone: TimeZone = TimeZone("UTC")
    """Time zone of `start`."""


class BlackoutWindow(ApiModel):
    """A span of time in which nothing is done: one that comes back every week, or one with a beginning and an end."""

    days: (
        Annotated[
            tuple[Weekday, ...],
            Field(min_length=1, max_length=7, json_schema_extra={"x-kubernetes-list-type": "set"}),
            Unique(),
        ]
        | None
    ) = None
    """Days on which it begins, every week; with start and duration."""
    start: TimeOfDay | None = None
    """When it begins, in its time zone."""
    duration: Annotated[Duration, DurationBetween("1m", "24h")] | None = None
    """How long it holds; it may run past midnight."""
    time_zone: TimeZone = TimeZone("UTC")
    """Time zone of `start`."""
    from_: Annotated[Time | None, Field(alias="from")] = None
    """When it begins, once; with until."""
    until: Time | None = None
    """When it ends."""
    includes: Annotated[
        tuple[BlackoutDirection, ...],
        Field(max_length=1, json_schema_extra={"x-kubernetes-list-type": "set"}),
        Unique(),
    ] = ()
    """ScaleUp: rises are held back too. Left out, only falls and resizes are."""
    note: Annotated[str, Field(max_length=128)] = ""
    """Why, for people; shown where it holds something back."""

    RULES = (
        Rule(
            cel=(
                "(has(self.days) && has(self.start) && has(self.duration) && !has(self.from) && !has(self.until)) ||"
                " (!has(self.days) && !has(self.start) && !has(self.duration) && has(self.from) && has(self.until))"
            ),
            message="blackout: give days, start and duration for every week, or from and until for once",
            holds=lambda b: (
                [b.days is None, b.start is None, b.duration is None, b.from_ is not None, b.until is not None]
                in ([False] * 5, [True] * 5)
            ),
        ),
        Rule(
            cel="!has(self.from) || !has(self.until) || self.until > self.from",
            message="blackout: until must be later than from",
            field="until",
            holds=lambda b: b.from_ is None or b.until is None or b.until.unix > b.from_.unix,
        ),
    )


class Cooldowns(ApiModel):
    """Rests of one axis after its own last change."""

    scale_up: Annotated[Duration, DurationBetween("0s", "24h")] | None = None
    """Between two rises. Built-in: 0s. Anything else makes late what a burst needs."""
    scale_down: Annotated[Duration, DurationBetween("0s", "24h")] | None = None
    """Between two falls. Built-in: `cooldown`."""
    resize: Annotated[Duration, DurationBetween("0s", "24h")] | None = None
    """Between two changes of requests. Built-in: `cooldown`."""


class PolicySpec(ApiModel):
    """Limits of what is done automatically. They have the last word on every number."""

    max_replica_step: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Replicas that one action may add or remove. Built-in: 4."""
    max_gpu_step: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """GPUs that one action may add or remove. Built-in: 32."""
    cooldown: Annotated[Duration, DurationBetween("0s", "24h")] | None = None
    """Rest after a change, by whomever, before another axis or direction is changed. Built-in: 5m."""
    cooldowns: Cooldowns = Cooldowns()
    """Rests of one axis after its own last change, over `cooldown`."""
    min_available: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Ready replicas of each target that a fall leaves. Built-in: 0, the scaler's minimum alone."""
    maintenance_windows: (
        Annotated[
            tuple[MaintenanceWindow, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
        ]
        | None
    ) = None
    """When changes that disturb running pods are allowed. Built-in: always."""
    blackout_windows: (
        Annotated[
            tuple[BlackoutWindow, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
        ]
        | None
    ) = None
    """When nothing is done. Those of the cluster's defaults hold besides the object's own. Built-in: never."""
    verify_window: Annotated[Duration, DurationBetween("30s", "24h")] | None = None
    """How long the effect of an action is watched. Built-in: 10m."""
    rollback: StrictBool | None = None
    """Whether an action that made things worse is undone. Built-in: true."""


class Committed(ApiModel):
    """Capacity that is paid for whether it is used or not: reserved instances, committed use, own hardware.

    Giving it back saves nothing, and savings say so. Spot nodes do not count.
    """

    share: Annotated[Share, ShareBetween(0, 1)] | None = None
    """Share of the capacity; 100% for own hardware."""
    gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """The same as a number of GPUs, which stays when nodes come and go."""
    factor: Annotated[Share, ShareBetween(0.01, 1)] | None = None
    """Its price over the price on demand. Built-in: 100%."""

    RULES = (
        Rule(
            cel="!(has(self.share) && has(self.gpus))",
            message="committed: give share or gpus, not both",
            holds=lambda c: c.share is None or c.gpus is None,
        ),
    )


class Prices(ApiModel):
    """What capacity costs an hour, in the object's currency. A price that is left out comes from the next source.

    The sources are, in their order: these prices, the ConfigMap of node prices, OpenCost, shipped list prices of GPU
    instances, and defaults for CPU and memory (docs/how-to/prices.md). A price of zero is refused.
    """

    gpu_hour: Amount | None = None
    """One GPU for one hour, on demand."""
    cpu_core_hour: Amount | None = None
    """One CPU core for one hour, on demand."""
    memory_gib_hour: Annotated[Amount | None, Field(alias="memoryGiBHour")] = None
    """One GiB of memory for one hour, on demand."""
    spot_factor: Annotated[Share, ShareBetween(0.01, 1)] | None = None
    """Price of spot nodes over the price on demand. Without it a list price says nothing of a spot node."""
    committed: Committed | None = None
    """What is paid for whether it is used or not."""


IMMUTABLE_TARGET = Rule(
    cel="self == oldSelf",
    message="targetRef may not change: create a new object instead, and delete this one",
)
