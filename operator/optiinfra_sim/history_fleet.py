"""A fleet's past, played: each model's load and replicas minute by minute, its pods' lives, and the GPUs they held.

Deterministic by its plan and seed. Replicas of a healthy model follow their scaler (up at once, down after half an
hour, new ones serve after STARTUP_S); all others stay as they were deployed. A pod that ends is gone, its successor has
another name and starts its counters anew, on whichever GPUs were free. How exporters tell it is told elsewhere
(`history`). Refuses a fleet whose pods do not fit its GPUs.
"""

import hashlib
import math
import uuid
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra_sim.errors import EngineError
from optiinfra_sim.history_engine import Course, capacity, play
from optiinfra_sim.history_models import CLUSTERS, GPU_HOUR, LARGE, TARGET, FleetPlan, Label, ModelPlan
from optiinfra_sim.history_traffic import Array, Traffic, traffic

STEP_S: Final = 60.0
"""Between two scrapes."""
STARTUP_S: Final = 240.0
HOLD_S: Final = 1800.0
"""A scaler looks back so long before it removes replicas."""
GPUS_A_NODE: Final = 8
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
_NAMESPACE: Final = uuid.UUID("6f707469-696e-6672-6120-73696d756c61")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the fleet."""

    cluster: str
    node: str
    index: int

    @property
    def uuid(self) -> str:
        """The same in every run."""
        return f"GPU-{uuid.uuid5(_NAMESPACE, f'{self.node}/{self.index}')}"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod's life: points [first, last) of the grid, of which it serves from `serving` on."""

    model: "PlayedModel"
    name: str
    first: int
    serving: int
    last: int
    gpus: tuple[Gpu, ...]
    address: str

    @property
    def node(self) -> str:
        """Where it ran."""
        return self.gpus[0].node


@dataclass(frozen=True, slots=True, eq=False)
class PlayedModel:
    """One model over the whole time; (points,) each."""

    plan: ModelPlan
    traffic: Traffic
    """Requests per second of all replicas together."""
    serving: Array
    """Replicas that serve."""
    held: Array
    """Replicas that exist, starting ones too."""
    course: Course
    """Of one replica: they share the load alike."""

    @property
    def key(self) -> str:
        """namespace/workload."""
        return f"{self.plan.namespace}/{self.plan.workload}"

    @property
    def replica_set(self) -> str:
        """The ReplicaSet's name."""
        return f"{self.plan.workload}-{_suffix(self.key, 9)}"


@dataclass(frozen=True, slots=True)
class ModelTruth:
    """What is true of one model."""

    key: str
    cluster: str
    label: Label
    gpu_hours: float
    cost: float
    """USD."""
    needed_gpu_hours: float
    """Had it run the replicas that keep it at TARGET over the next STARTUP_S, at each moment; none if idle."""

    least_gpu_hours: float
    """Had it run, at each moment, as many as the load keeps busy all the time: nobody can do with less."""

    @property
    def avoidable_gpu_hours(self) -> float:
        """What was held beyond that; by hindsight, so no scaler saves all of it."""
        return max(0.0, self.gpu_hours - self.needed_gpu_hours)


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Everything that happened."""

    times: Array
    """(points,) Unix seconds."""
    models: tuple[PlayedModel, ...]
    pods: tuple[Pod, ...]
    """By model and beginning."""
    gpus: tuple[Gpu, ...]
    seed: int

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names, by cluster."""
        return tuple(dict.fromkeys(gpu.node for gpu in self.gpus))

    def truths(self) -> tuple[ModelTruth, ...]:
        """What is true of each model."""
        return tuple(_truth(model) for model in self.models)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours that existed, held or not."""
        return len(self.gpus) * len(self.times) * STEP_S / 3600.0

    @property
    def cost(self) -> float:
        """USD of them."""
        return self.gpu_hours * GPU_HOUR


def build(plan: FleetPlan, *, end: float, seed: int = 1) -> Fleet:
    """Play a fleet up to `end` (Unix seconds, cut to a whole step); raise EngineError where pods find no place."""
    points = round(plan.days * 86_400.0 / STEP_S)
    last = math.floor(end / STEP_S) * STEP_S
    times = last - STEP_S * np.arange(points - 1, -1, -1.0)
    models = tuple(_model(one, points, np.random.default_rng((seed, number))) for number, one in enumerate(plan.models))
    gpus = tuple(
        Gpu(cluster, _node_name(cluster, number), index)
        for cluster, counts in zip(CLUSTERS, plan.nodes, strict=True)
        for number in range(sum(counts))
        for index in range(GPUS_A_NODE)
    )
    return Fleet(times, models, _placed(models, plan, gpus), gpus, seed)


def _node_name(cluster: str, number: int) -> str:
    return f"ip-10-{20 + CLUSTERS.index(cluster)}-{number // 4}-{10 + 7 * number}.ec2.internal"


def _suffix(text: str, length: int) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:length])


def _model(plan: ModelPlan, points: int, draw: np.random.Generator) -> PlayedModel:
    grid = np.arange(points, dtype=np.float64) * STEP_S
    shape = traffic(service=plan.service, times=grid, offset_s=plan.offset_s, lengths=plan.lengths, draw=draw)
    computed = shape.prompt_tokens * (1.0 - plan.settings.prefix_hit_share)
    can = capacity(plan.settings, prompt=shape.prompt_tokens, output=shape.output_tokens, computed=computed)
    each = can.requests_per_s
    if plan.scaled:
        rate = shape.requests_per_s * plan.load * float(each.mean())
        serving, held = _scaled(rate / each, most=plan.replicas)
    else:
        rate = shape.requests_per_s * plan.load * plan.replicas * float(each.mean())
        serving = held = np.full(points, float(plan.replicas))
    # What is counted are requests: whole ones, as Poisson's law has them.
    rate = draw.poisson(rate * STEP_S) / STEP_S
    course = play(
        plan.settings,
        arrived=rate / serving,
        prompt=shape.prompt_tokens,
        output=shape.output_tokens,
        step_s=STEP_S,
    )
    return PlayedModel(plan, Traffic(rate, shape.prompt_tokens, shape.output_tokens), serving, held, course)


def _scaled(load: Array, *, most: int) -> tuple[Array, Array]:
    """Return the replicas that serve and that exist, when a scaler keeps them at TARGET."""
    window = int(300 / STEP_S)
    mean = np.convolve(np.concatenate((np.full(window - 1, load[0]), load)), np.full(window, 1 / window), "valid")
    wanted = np.clip(np.ceil(mean / TARGET), 1, most)
    hold, start = int(HOLD_S / STEP_S), int(STARTUP_S / STEP_S)
    held = _highest_before(wanted, hold)
    serving = np.minimum(held, np.concatenate((np.full(start, held[0]), held[:-start])))
    return np.maximum(serving, 1.0), held


def _highest_before(values: Array, window: int) -> Array:
    padded = np.concatenate((np.full(window - 1, values[0]), values))
    highest: Array = np.lib.stride_tricks.sliding_window_view(padded, window).max(axis=1)
    return highest


def _lives(model: PlayedModel) -> list[tuple[int, int]]:
    """Return the [first, last) of each pod: the newest goes first."""
    lives: list[tuple[int, int]] = []
    running: list[int] = []
    changes = np.flatnonzero(np.diff(model.held, prepend=0.0))
    for point in changes:
        wanted = int(model.held[point])
        while len(running) < wanted:
            running.append(int(point))
        while len(running) > wanted:
            lives.append((running.pop(), int(point)))
    lives += [(first, len(model.held)) for first in running]
    return sorted(lives)


def _placed(models: tuple[PlayedModel, ...], plan: FleetPlan, gpus: tuple[Gpu, ...]) -> tuple[Pod, ...]:
    free = dict.fromkeys(gpus, True)
    events = []
    for order, model in enumerate(models):
        for number, (first, last) in enumerate(_lives(model)):
            events.append((first, 1, order, number, last))
            events.append((last, 0, order, number, first))
    large = {cluster: counts[1] for cluster, counts in zip(CLUSTERS, plan.nodes, strict=True)}
    held: dict[tuple[int, int], tuple[Gpu, ...]] = {}
    pods: list[tuple[tuple[int, int], Pod]] = []
    for moment, begins, order, number, other in sorted(events):
        if not begins:
            for gpu in held.pop((order, number)):
                free[gpu] = True
            continue
        model = models[order]
        chosen = _place(model.plan, [gpu for gpu in gpus if free[gpu]], gpus, large[model.plan.cluster])
        for gpu in chosen:
            free[gpu] = False
        held[order, number] = chosen
        starts = moment if moment == 0 else min(other, moment + int(STARTUP_S / STEP_S))
        name = f"{model.replica_set}-{_suffix(f'{model.key}/{number}', 5)}"
        pods.append(
            (
                (order, number),
                Pod(model, name, moment, starts, other, chosen, f"10.{order}.{number >> 8}.{number & 255}"),
            )
        )
    return tuple(pod for _, pod in sorted(pods, key=lambda one: one[0]))


def _place(plan: ModelPlan, free: list[Gpu], gpus: tuple[Gpu, ...], large: int) -> tuple[Gpu, ...]:
    """Choose GPUs of one node, the fullest that has room; the last nodes of a cluster are for large replicas."""
    nodes = list(dict.fromkeys(gpu.node for gpu in gpus if gpu.cluster == plan.cluster))
    border = len(nodes) - large
    allowed = nodes[border:] if plan.size.gpus >= LARGE else nodes[:border]
    by_node = {node: [gpu for gpu in free if gpu.node == node] for node in allowed}
    fitting = [own for own in by_node.values() if len(own) >= plan.size.gpus]
    if not fitting:
        raise EngineError(f"no room for {plan.namespace}/{plan.workload} ({plan.size.gpus} GPUs) in {plan.cluster}")
    return tuple(min(fitting, key=len)[: plan.size.gpus])


def _truth(model: PlayedModel) -> ModelTruth:
    plan = model.plan
    hours = float(model.held.sum()) * STEP_S / 3600.0 * plan.size.gpus
    needed = least = 0.0
    if plan.label is not Label.IDLE:
        computed = model.traffic.prompt_tokens * (1.0 - plan.settings.prefix_hit_share)
        can = capacity(
            plan.settings,
            prompt=model.traffic.prompt_tokens,
            output=model.traffic.output_tokens,
            computed=computed,
        )
        load = model.traffic.requests_per_s / can.requests_per_s
        ahead = _highest_before(load[::-1], int(STARTUP_S / STEP_S) + 1)[::-1]
        each = STEP_S / 3600.0 * plan.size.gpus
        needed = float(np.minimum(model.held, np.maximum(1.0, np.ceil(ahead / TARGET))).sum()) * each
        least = float(np.minimum(model.held, np.maximum(1.0, np.ceil(load))).sum()) * each
    return ModelTruth(model.key, plan.cluster, plan.label, hours, hours * GPU_HOUR, needed, least)
