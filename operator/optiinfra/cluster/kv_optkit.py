"""A thin client of KV-OptKit's HTTP server, for those who run one: its plan, or why there is none.

Two calls: GET /healthz (version, adapter) and POST /autopilot/plan with `dry_run`, so that nothing is ever carried
out. Its other paths are not asked: in 0.5.3 /advisor/report and /telemetry answer 500, and /metrics are zeros that mean
nothing. Whatever is not a plan (5xx, a time-out, an empty plan, something else than JSON) is an `Unknown` with the
reason, never a number.
"""

import math
from typing import Any, Final

from optiinfra.cluster.json_service import NoAnswer, json_service, service_url
from optiinfra.domain.kv_optkit_plan import KVOptKitPlan, PlannedAction
from optiinfra.domain.readings import Unknown, UnknownReason

TIMEOUT_S: Final = 3.0
LIMIT_BYTES: Final = 256 * 1024
MOST_ACTIONS: Final = 100
"""The most that its server plans at once."""
HBM_TARGET: Final = 0.85
"""Share of GPU memory to plan for: its own default."""
SIMULATOR: Final = "SimAdapter"
_KINDS: Final = frozenset(PlannedAction)


async def read_plan(
    url: str,
    *,
    target: float = HBM_TARGET,
    timeout_s: float = TIMEOUT_S,
    limit_bytes: int = LIMIT_BYTES,
) -> KVOptKitPlan | Unknown:
    """Ask the server at `url` (http or https, with an optional path prefix) for a plan; never raises for an answer."""
    try:
        base = service_url(url)
        async with json_service(timeout_s=timeout_s, limit_bytes=limit_bytes) as service:
            health = await service.call("GET", base / "healthz")
            wanted = {"target_hbm_util": target, "max_actions": MOST_ACTIONS, "dry_run": True}
            plan = await service.call("POST", base / "autopilot" / "plan", body=wanted)
        return _plan(health, plan)
    except NoAnswer as error:
        return Unknown(error.reason, f"KV-OptKit: {error.detail}"[:256])


def _plan(health: dict[str, Any], plan: dict[str, Any]) -> KVOptKitPlan:
    actions = plan.get("actions")
    if not isinstance(actions, list) or len(actions) > MOST_ACTIONS:
        raise NoAnswer(UnknownReason.INVALID, "a plan without a list of actions")
    if not actions:
        raise NoAnswer(UnknownReason.TOO_FEW_SAMPLES, "its plan is empty")
    adapter, version = health.get("adapter"), health.get("version")
    if not isinstance(adapter, str) or not isinstance(version, str) or not version[:1].isdigit():
        raise NoAnswer(UnknownReason.INVALID, "it does not say which version and adapter it runs")
    return KVOptKitPlan(
        actions=tuple(_kind(one) for one in actions),
        hbm_reduction=_number(plan, "estimated_hbm_reduction", most=1.0),
        accuracy_impact=_number(plan, "estimated_accuracy_impact", most=math.inf),
        simulated=adapter == SIMULATOR,
        version="".join(character for character in version[:16] if character.isalnum() or character in ".-+"),
    )


def _kind(action: object) -> PlannedAction:
    kind = action.get("action_type") if isinstance(action, dict) else None
    if not isinstance(kind, str):
        raise NoAnswer(UnknownReason.INVALID, "an action without a kind")
    return PlannedAction(kind) if kind in _KINDS else PlannedAction.OTHER


def _number(plan: dict[str, Any], name: str, *, most: float) -> float:
    value = plan.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NoAnswer(UnknownReason.INVALID, f"{name} is not a number")
    if not 0.0 <= value <= most:
        raise NoAnswer(UnknownReason.INVALID, f"{name} is out of range")
    return float(value)
