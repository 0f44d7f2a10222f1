"""From spec parts to the types that the domain and the round work with."""

from typing import TypeVar

from optiinfra.api.settings import ModeTable, Policy, Settings, Target
from optiinfra.api.v1alpha1.cluster_resource_optimization import Defaults
from optiinfra.api.v1alpha1.common import Mode, Modes, ObjectivesSpec, PolicySpec
from optiinfra.api.v1alpha1.model import Model
from optiinfra.api.v1alpha1.resource_optimization import ResourceOptimizationSpec
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds

_T = TypeVar("_T")

INTERVAL = Seconds(30.0)
"""Built-in `interval`."""
DAILY_TOKEN_BUDGET = 50_000
"""Built-in `insights.dailyTokenBudget`."""
_NOT_STATED = Unknown(UnknownReason.NOT_CONFIGURED, "neither spec.model nor the table of models tells")


def effective(spec: ResourceOptimizationSpec, defaults: Defaults | None = None) -> Settings:
    """Work out what holds for an object. `defaults` are those of the ClusterResourceOptimization, if there is one."""
    common = defaults or Defaults()
    budget = _first(spec.insights.daily_token_budget, common.insights.daily_token_budget)
    insights = _first(spec.insights.enabled, common.insights.enabled)
    return Settings(
        targets=to_targets(spec),
        interval=interval_of(spec, defaults),
        modes=to_modes(spec.mode or common.mode or Mode.RECOMMEND, spec.modes),
        suspended=spec.suspend,
        objectives=to_objectives(spec.objectives, common.objectives),
        model=to_model(spec.model),
        policy=to_policy(spec.policy, common.policy),
        insights_enabled=True if insights is None else insights,
        daily_token_budget=DAILY_TOKEN_BUDGET if budget is None else budget,
    )


def interval_of(spec: ResourceOptimizationSpec, defaults: Defaults | None = None) -> Seconds:
    """Return the time between two rounds of an object; cheap, for those who ask about all objects at once."""
    interval = spec.interval or (defaults.interval if defaults is not None else None)
    return interval.seconds if interval is not None else INTERVAL


def to_targets(spec: ResourceOptimizationSpec) -> tuple[Target, ...]:
    """Return the workloads of a service, each with the scaling that holds for it."""
    if spec.target_ref is not None:
        return (Target(name=spec.target_ref.name, target_ref=spec.target_ref, scaling=spec.scaling),)
    return tuple(
        Target(
            name=variant.name,
            target_ref=variant.target_ref,
            scaling=variant.scaling or spec.scaling,
            role=variant.role,
            capacity_type=variant.capacity_type,
            max_share=variant.max_share.ratio if variant.max_share else Ratio(1.0),
        )
        for variant in spec.variants or ()
    )


def to_modes(mode: Mode, modes: Modes) -> ModeTable:
    """Return the mode of every direction."""
    return ModeTable(scale_up=modes.scale_up or mode, scale_down=modes.scale_down or mode, resize=modes.resize or mode)


def to_objectives(*layers: ObjectivesSpec) -> Objectives:
    """Return the promises; earlier layers win, what none sets is built in."""
    built_in = Objectives()
    first_token = _first(*(layer.time_to_first_token_p95 for layer in layers))
    inter_token = _first(*(layer.inter_token_latency_p95 for layer in layers))
    queue_delay = _first(*(layer.queue_delay for layer in layers))
    late_share = _first(*(layer.late_share for layer in layers))
    return Objectives(
        time_to_first_token_p95=built_in.time_to_first_token_p95 if first_token is None else first_token.seconds,
        inter_token_latency_p95=built_in.inter_token_latency_p95 if inter_token is None else inter_token.seconds,
        queue_delay=built_in.queue_delay if queue_delay is None else queue_delay.seconds,
        late_share=built_in.late_share if late_share is None else late_share.ratio,
    )


def to_model(model: Model) -> ModelFacts:
    """Return the facts that the object states; its family is a name, for whoever looks it up in the table."""
    return ModelFacts(
        parameters=_stated(model.parameters.parameters if model.parameters else None),
        active_parameters=_stated(model.active_parameters.parameters if model.active_parameters else None),
        layers=_stated(model.layers),
        kv_heads=_stated(model.kv_heads),
        head_size=_stated(model.head_size),
        weight_bytes_each=_stated(model.dtype.bytes_each if model.dtype else None),
        context_tokens=_stated(model.context_tokens),
        attention=model.attention.attention if model.attention else Attention.UNKNOWN,
        window_tokens=_stated(model.window_tokens),
        windowed_layers=_stated(model.windowed_layers),
        latent_size=_stated(model.latent_size),
    )


def _stated(value: float | None) -> Value:
    return _NOT_STATED if value is None else float(value)


def to_policy(*layers: PolicySpec) -> Policy:
    """Return the limits; earlier layers win, what none sets is built in."""
    built_in = Policy()
    replica_step = _first(*(layer.max_replica_step for layer in layers))
    gpu_step = _first(*(layer.max_gpu_step for layer in layers))
    cooldown = _first(*(layer.cooldown for layer in layers))
    verify_window = _first(*(layer.verify_window for layer in layers))
    rollback = _first(*(layer.rollback for layer in layers))
    windows = _first(*(layer.maintenance_windows for layer in layers))
    rise = _first(*(layer.cooldowns.scale_up for layer in layers))
    fall = _first(*(layer.cooldowns.scale_down for layer in layers))
    resize = _first(*(layer.cooldowns.resize for layer in layers))
    available = _first(*(layer.min_available for layer in layers))
    return Policy(
        max_replica_step=built_in.max_replica_step if replica_step is None else replica_step,
        max_gpu_step=built_in.max_gpu_step if gpu_step is None else gpu_step,
        cooldown=built_in.cooldown if cooldown is None else cooldown.seconds,
        verify_window=built_in.verify_window if verify_window is None else verify_window.seconds,
        rollback=built_in.rollback if rollback is None else rollback,
        maintenance_windows=built_in.maintenance_windows if windows is None else windows,
        # A freeze of the cluster is nothing that one object can lift.
        blackout_windows=tuple(dict.fromkeys(one for layer in layers for one in layer.blackout_windows or ())),
        scale_up_cooldown=built_in.scale_up_cooldown if rise is None else rise.seconds,
        scale_down_cooldown=None if fall is None else fall.seconds,
        resize_cooldown=None if resize is None else resize.seconds,
        min_available=built_in.min_available if available is None else available,
    )


def _first(*layers: _T | None) -> _T | None:
    return next((layer for layer in layers if layer is not None), None)
