"""The scenario file: which services are played, by what kind of engine, under which load.

The only door for scenario data: YAML or JSON in, frozen models out. A bad file ends in one line that names the
field. Paths are relative to the scenario file; ``bundled:NAME`` means a file that ships with the simulator.
"""

import itertools
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from optiinfra_sim.compare import Load
from optiinfra_sim.errors import EngineError, ScenarioError
from optiinfra_sim.settings import EngineKind, EngineSettings
from optiinfra_sim.trace import Arrival, LoadPoint, read_trace, shape

MAX_SCENARIO_BYTES = 2**20
PACKAGE = Path(__file__).parent
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineModel(_Model):
    """Engine limits and step costs; defaults and meaning as in :class:`EngineSettings`."""

    kind: EngineKind = EngineKind.VLLM
    """Whose metric page it shows and whose habits it has: vllm, sglang or tgi."""
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,200}$")] = "llama-3.1-8b"
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count = 8192
    max_model_len: Count = 16384
    block_size: Count = 16
    num_blocks: Count = 28_000
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    prefix_caching: bool = True
    step_seconds: Positive = 0.007
    sequence_seconds: NotNegative = 0.00006
    prefill_token_seconds: NotNegative = 0.000025
    host_seconds: NotNegative = 0.0
    prefix_hit_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shared_prefix_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        try:
            self.settings()
        except EngineError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self) -> EngineSettings:
        """The same as the engine wants it."""
        return EngineSettings(**self.model_dump())


class LoadPointModel(_Model):
    """The load factor at one moment (seconds of played time)."""

    at: NotNegative
    factor: Annotated[float, Field(ge=0, le=1000)]


class TraceModel(_Model):
    """A slice of a request trace, how fast it is played and how much of it."""

    file: str = "bundled:azure-conversation"
    start_seconds: NotNegative = 0.0
    duration_seconds: Positive = 720.0
    """Of the trace, before compression."""
    compression: Positive = 1.0
    """Trace seconds played per second: 4 plays twelve minutes in three, at four times the rate."""
    load: tuple[LoadPointModel, ...] = Field(default=(LoadPointModel(at=0.0, factor=1.0),), min_length=1)
    """Requests played per request of the trace, over played time; straight lines between the points."""

    @field_validator("load", mode="before")
    @classmethod
    def _constant(cls, value: object) -> object:
        return ({"at": 0.0, "factor": value},) if isinstance(value, int | float) else value

    @field_validator("load")
    @classmethod
    def _ordered(cls, value: tuple[LoadPointModel, ...]) -> tuple[LoadPointModel, ...]:
        if any(right.at <= left.at for left, right in itertools.pairwise(value)):
            raise ValueError("the points must be in order of time, no two at one moment")
        return value

    @property
    def played_seconds(self) -> float:
        """How long the slice lasts as it is played."""
        return self.duration_seconds / self.compression

    def describe(self) -> str:
        """What was done to the trace, in one sentence: it belongs beside every result."""
        factors = [point.factor for point in self.load]
        load = (
            f"x{factors[0]:g}"
            if len(set(factors)) == 1
            else ("shaped over time: " + ", ".join(f"x{point.factor:g} at {point.at:g} s" for point in self.load))
        )
        return (
            f"{self.file}, seconds {self.start_seconds:g} to {self.start_seconds + self.duration_seconds:g} played in "
            f"{self.played_seconds:g} s (compression {self.compression:g}); requests of the slice {load}; "
            "lengths unchanged"
        )

    def arrivals(self, *, folder: Path) -> list[Arrival]:
        """The shaped requests."""
        shaped = shape(
            read_trace(locate(self.file, folder=folder, kind="traces", ending=".csv.gz")),
            start=self.start_seconds,
            duration=self.duration_seconds,
            compression=self.compression,
            load=[LoadPoint(point.at, point.factor) for point in self.load],
        )
        if not shaped:
            raise ScenarioError(f"trace.file {self.file}: no request lies in the slice that was asked for")
        return shaped


class _Service(_Model):
    name: Name
    namespace: Name
    selector: dict[str, str] = Field(min_length=1, max_length=16)
    """Labels that all pods of the service carry."""
    gpus_per_replica: Annotated[int, Field(ge=0, le=64)] = 1
    startup_seconds: NotNegative = 0.0
    """Between a pod's readiness and its first page: the loading of the model."""


class SimulatedService(_Service):
    """Engines computed by the fleet model, under a trace."""

    kind: Literal["simulated"]
    engine: EngineModel = EngineModel()
    trace: TraceModel = TraceModel()
    begin: Literal["Ready", "Command"] = "Ready"
    """When the trace begins: once ``initial_replicas`` serve, or by POST /sim/v1/begin on the control port."""
    initial_replicas: Count = 1
    min_replicas: Count = 1
    max_replicas: Count = 10
    """Bounds for ``compare``; the real replicas are the cluster's business."""
    tail_seconds: NotNegative = 30.0
    """How long after the trace costs and waits are still counted by ``compare``."""
    late_after_seconds: Positive = 10.0

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not self.min_replicas <= self.initial_replicas <= self.max_replicas:
            raise ValueError("min_replicas <= initial_replicas <= max_replicas must hold")
        return self

    def load(self, *, folder: Path) -> Load:
        """The same service as the comparison wants it."""
        return Load(
            settings=self.engine.settings(),
            arrivals=self.trace.arrivals(folder=folder),
            startup_seconds=self.startup_seconds,
            horizon_seconds=self.trace.played_seconds + self.tail_seconds,
            initial_replicas=self.initial_replicas,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            gpus_per_replica=self.gpus_per_replica,
            late_after_seconds=self.late_after_seconds,
        )


class IdleService(_Service):
    """Engines that have loaded their model and get no request."""

    kind: Literal["idle"]
    engine: EngineModel = EngineModel()


class RecordedService(_Service):
    """Engines that serve the pages of a recording, unmodified."""

    kind: Literal["recorded"]
    recording: str = "bundled:vllm-0.32-cpu-memory-bound-part1"


Service = Annotated[SimulatedService | IdleService | RecordedService, Field(discriminator="kind")]


class Scenario(_Model):
    """All services that one simulator plays."""

    services: tuple[Service, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [service.name for service in self.services]
        if len(set(names)) != len(names):
            raise ValueError("two services have the same name")
        return self

    def simulated(self, name: str) -> SimulatedService:
        """The simulated service of that name."""
        for service in self.services:
            if service.name == name and isinstance(service, SimulatedService):
                return service
        known = ", ".join(s.name for s in self.services if isinstance(s, SimulatedService)) or "none"
        raise ScenarioError(f"no simulated service {name!r} in the scenario (there is: {known})")


def locate(file: str, *, folder: Path, kind: str, ending: str) -> Path:
    """A file of the scenario: bundled with the simulator, or relative to the scenario."""
    bundled = file.removeprefix("bundled:")
    path = PACKAGE / kind / f"{bundled}{ending}" if bundled != file else folder / file
    if not path.is_file() or (bundled != file and path.parent != PACKAGE / kind):
        raise ScenarioError(f"{kind[:-1]} {file!r} not found (bundled files are written bundled:NAME)")
    return path


def read_scenario(path: Path) -> Scenario:
    """Read and check a scenario file."""
    try:
        if path.stat().st_size > MAX_SCENARIO_BYTES:
            raise ScenarioError(f"{path.name}: larger than {MAX_SCENARIO_BYTES} bytes")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise ScenarioError(f"{path.name}: {_one_line(error)}") from error


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # The discriminator's value appears in the location; a person knows the field without it.
    where = ".".join(str(part) for part in first["loc"] if part not in {"simulated", "idle", "recorded"})
    more = error.error_count() - 1
    return f"{where or 'scenario'}: {first['msg']}" + (f" (and {more} more)" if more else "")
