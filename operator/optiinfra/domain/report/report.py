"""The report on a fleet: what it cost, what it would have saved, what would have got worse, and what nobody knows.

Only frozen values, ready to be written down as they are: no arrays, no rules. Every number names the questions to the
metrics server that it came from (`Figure.sources`), and `Report.questions` has each of them with its query and a link.
Money is in one currency, named once; what nobody measured or priced is an Unknown with its reason and never a zero.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.evidence import Bottleneck, RecommendationType
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.units import Ratio, UnixTime

VERSION: Final = "optiinfra.io/report/v1"
"""Of the document's shape; it changes when a field goes or means something else, not when one is added."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, its unit, and where it is from."""

    value: Value
    unit: str
    """As in `evidence.Evidence`: "" for a count, "GPU-hours", "ratio", "seconds", a currency ..."""
    sources: tuple[str, ...] = ()
    """Names of the questions that it was computed from; empty for what was given on the command line."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question that was asked of the metrics server."""

    name: str
    promql: str
    link: str
    """Where a browser shows it; empty where there is no address."""
    samples: int
    """Samples that the server read for it, as far as it tells."""
    series: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is not known, and how to get it."""

    code: str
    what: str
    why: str
    remedy: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """What a kind of GPU was taken to cost."""

    gpu: str
    """Model of the GPU; empty where it is not told."""
    gpus: float
    gpu_hour: Value
    """Mean over its nodes, its share of the host included."""
    origin: str
    """Who says so."""
    reserved: float
    """GPUs of it that are paid for whether they are used or not."""


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """The whole fleet over the whole window."""

    gpus: Figure
    """There were, on average."""
    gpus_held: Figure
    """Held by pods, on average."""
    gpus_used: Figure
    """Busy, on average: activity added up."""
    gpu_hours: Figure
    held_gpu_hours: Figure
    idle_gpu_hours: Figure
    """GPU-hours in which a GPU that was there did nothing, held or not."""
    unheld_gpu_hours: Figure
    """GPU-hours that nobody held; part of the idle ones where they are measured."""
    cost: Figure
    """Of all GPU-hours in the window."""
    cost_per_month: Figure
    prompt_tokens: Figure
    generation_tokens: Figure
    cost_per_million_tokens: Figure
    """All of the cost over all tokens, prompt and generated."""
    cost_per_million_generated: Figure


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of running a model came to on the replayed load, in the fluid model."""

    name: str
    replica_hours: float
    gpu_hours: Value
    cost: Value
    """In the replayed time."""
    late_share: Value
    """Share of the work that waited longer than the objective."""
    incidents: Value
    """Five-minute windows with more than a tenth of their work late."""
    actions_per_day: Value


@dataclass(frozen=True, slots=True)
class Replay:
    """A model's load under what ran, under this project's scaler and under a plain HPA."""

    hours: float
    """Known load that was replayed, the newest of the window."""
    capacity: float
    """Work per second (prompt tokens + 4 x generated ones) that one replica was taken to serve."""
    capacity_basis: str
    """Measured, Occupancy, or AtLeast: the most that was seen, which makes every rule run more than it needs."""
    confidence: Ratio
    start_up_s: float
    minimum: int
    maximum: int
    ran: Outcome
    ours: Outcome
    hpa: Outcome | Unknown
    """The cheapest plain HPA on the rate of work that held the objective, known only afterwards."""
    hpa_target: Value
    """Share of a replica's capacity that it aims at."""
    load_mean: float
    """Replicas that the load kept busy."""
    load_peak: float
    sources: tuple[str, ...] = ()
    """Questions behind it."""


@dataclass(frozen=True, slots=True)
class Limit:
    """For how much of the time something limited a model."""

    bottleneck: Bottleneck
    hours: float
    share: Ratio
    reason: str
    """The most frequent reason code of it."""
    message: str
    """What was said of its clearest hour."""
    at: UnixTime
    """End of that hour."""
    confidence: Ratio


@dataclass(frozen=True, slots=True)
class Curves:
    """What is drawn of a model: the same number of points each; None where nothing is known."""

    times: tuple[float, ...]
    """Unix seconds, ends of equal spans."""
    ran: tuple[float | None, ...]
    """Replicas that ran, mean of each span."""
    ours: tuple[float | None, ...]
    """Replicas that this project's scaler would have run; None before the replayed time."""
    load: tuple[float | None, ...]
    """Replicas that the load kept busy."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured fact behind a proposal, for people."""

    signal: str
    value: Value
    unit: str
    statistic: str
    source: str
    """Name of a question, or who measured it."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a proposal would have freed in the window, and what of it is money."""

    gpu_hours: float
    """Freed by itself."""
    counted_gpu_hours: float
    """Of those, the ones that no proposal above it frees already."""
    unpaid_gpu_hours: float
    """Counted ones that are paid for all the same, because they are reserved: capacity, not money."""
    money: Value
    """Of the counted ones, in the window."""
    per_month: Value
    """The same for a month of 730 hours like the window."""
    cpu_cores: float = 0.0
    """Requests that are freed now: capacity, not money."""
    memory_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Opportunity:
    """One proposed change."""

    id: str
    """Stable within a fleet: type, subject and setting."""
    type: RecommendationType
    reason: str
    subject: str
    """namespace/workload, a node, or a holder of GPUs."""
    title: str
    message: str
    setting: str
    current: str
    proposed: str
    confidence: Ratio
    saved: Saved
    evidence: tuple[Fact, ...]
    sources: tuple[str, ...]
    """Questions behind it."""
    worse: tuple[str, ...] = ()
    """What it would have made worse, in sentences."""
    risk: str = ""
    verification: str = ""
    undo: str = ""
    patch: str = ""
    """File name of its patch below --patches; empty where none can be written."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A file that is ready to be applied or to be read."""

    file: str
    text: str
    opportunity: str
    """Id of the one that it belongs to."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What was considered and not proposed."""

    type: RecommendationType
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model service."""

    namespace: str
    workload: str
    kind: str
    model: str
    engine: str
    """Kind and version, as far as they are told."""
    gpus_per_replica: Value
    replicas: Figure
    """Mean of what ran."""
    replicas_least: Value
    replicas_most: Value
    gpu_hours: Figure
    """Held."""
    used_gpu_hours: Figure
    cost: Figure
    prompt_tokens: Figure
    generation_tokens: Figure
    cost_per_million_tokens: Figure
    cost_per_million_generated: Figure
    replay: Replay | Unknown
    limits: tuple[Limit, ...]
    """Most of the time first."""
    curves: Curves
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return namespace/workload."""
        return f"{self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True)
class Worse:
    """What this project's scaler would have made worse for one model; shown as plainly as what it would save."""

    subject: str
    message: str
    late_share_before: Value
    late_share_after: Value
    incidents_before: Value
    incidents_after: Value
    extra_gpu_hours: float
    """GPU-hours that it would have held more than what ran; 0 where it holds less."""


@dataclass(frozen=True, slots=True)
class Total:
    """All proposals together, each GPU-hour counted once."""

    cost: Value
    """Of what was measured, in the window."""
    saved: Value
    """In the window; never more than the cost."""
    per_month: Value
    share: Value
    """Saved over cost."""
    gpu_hours: float
    """Freed in the window."""
    unpaid_gpu_hours: float
    """Of those, reserved ones: capacity, not money."""
    unpriced_gpu_hours: float
    """Of those, ones of GPUs without a price."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything."""

    version: str
    made: UnixTime
    server: str
    """Address of the metrics server, without secrets."""
    first: UnixTime
    last: UnixTime
    hours: float
    step_s: float
    currency: str
    simulated: bool
    """The pages say that engines or GPUs of it are simulated."""
    total: Total
    fleet: FleetFigures
    prices: tuple[Price, ...]
    opportunities: tuple[Opportunity, ...]
    """By money, then by freed GPU-hours."""
    worse: tuple[Worse, ...]
    models: tuple[ModelReport, ...]
    """By cost, dearest first."""
    gaps: tuple[Gap, ...]
    questions: tuple[Question, ...]
    samples: int
    """That the server read."""
    replayed: str
    """Which days were replayed, in words."""
    method: tuple[str, ...]
    """Three sentences."""
    notes: tuple[str, ...] = ()
