"""A thin client of KV-OptKit's HTTP server, for those who run one: its plan, or why there is none.

Two calls: GET /healthz (version, adapter) and POST /autopilot/plan with `dry_run`, so that nothing is ever carried
out. Bounded in time and bytes, no redirects, no proxies from the environment, no cookies. Its other paths are not
asked: in 0.5.3 /advisor/report and /telemetry answer 500, and /metrics are zeros that mean nothing. Whatever is not a
plan (5xx, a time-out, an empty plan, something else than JSON) is an `Unknown` with the reason, never a number.
"""

import asyncio
import math
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from optiinfra.cluster.connections import Connections
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


class _NoAnswer(Exception):  # noqa: N818  a state, named as people say it
    """There is no plan, and why."""

    def __init__(self, reason: UnknownReason, detail: str) -> None:
        super().__init__(detail)
        self.unknown = Unknown(reason, f"KV-OptKit: {detail}"[:256])


async def read_plan(
    url: str,
    *,
    target: float = HBM_TARGET,
    timeout_s: float = TIMEOUT_S,
    limit_bytes: int = LIMIT_BYTES,
) -> KVOptKitPlan | Unknown:
    """Ask the server at `url` (http or https, with an optional path prefix) for a plan; never raises for an answer."""
    connections = Connections()
    try:
        base = _base(url)
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, socket_factory=connections.open),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "optiinfra"},
            ) as session,
        ):
            health = await _call(session, "GET", base / "healthz", None, limit_bytes)
            wanted = {"target_hbm_util": target, "max_actions": MOST_ACTIONS, "dry_run": True}
            plan = await _call(session, "POST", base / "autopilot" / "plan", wanted, limit_bytes)
        return _plan(health, plan)
    except _NoAnswer as error:
        return error.unknown
    except TimeoutError:
        return Unknown(UnknownReason.UNREACHABLE, f"KV-OptKit: no complete answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Unknown(UnknownReason.UNREACHABLE, f"KV-OptKit: {type(error).__name__}: {error}"[:256])
    finally:
        await connections.end()


def _base(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise _NoAnswer(UnknownReason.NOT_CONFIGURED, f"not a valid address: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or len(text) > 1024:
        raise _NoAnswer(UnknownReason.NOT_CONFIGURED, "not an http or https address")
    return url.with_query(None).with_fragment(None)


async def _call(
    session: aiohttp.ClientSession, method: str, url: URL, body: dict[str, Any] | None, limit_bytes: int
) -> dict[str, Any]:
    data = None if body is None else orjson.dumps(body)
    headers = {} if body is None else {"Content-Type": "application/json"}
    async with session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
        where = f"{method} {url.path}"
        if response.status in {401, 403}:
            raise _NoAnswer(UnknownReason.REFUSED, f"{where} asks for permission (HTTP {response.status})")
        if response.status != 200:
            raise _NoAnswer(UnknownReason.INVALID, f"{where} answered HTTP {response.status}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise _NoAnswer(UnknownReason.INVALID, f"{where} answered in an encoding that was not asked for")
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > limit_bytes:
                # Else the connection would be drained to be used again.
                response.close()
                raise _NoAnswer(UnknownReason.INVALID, f"{where} answered more than {limit_bytes} bytes")
    try:
        document = orjson.loads(bytes(content))
    except orjson.JSONDecodeError as error:
        what = "nothing" if not content.strip() else "something else than JSON"
        raise _NoAnswer(UnknownReason.INVALID, f"{where} answered {what}") from error
    if not isinstance(document, dict):
        raise _NoAnswer(UnknownReason.INVALID, f"{where} answered no JSON object")
    return document


def _plan(health: dict[str, Any], plan: dict[str, Any]) -> KVOptKitPlan:
    actions = plan.get("actions")
    if not isinstance(actions, list) or len(actions) > MOST_ACTIONS:
        raise _NoAnswer(UnknownReason.INVALID, "a plan without a list of actions")
    if not actions:
        raise _NoAnswer(UnknownReason.TOO_FEW_SAMPLES, "its plan is empty")
    adapter, version = health.get("adapter"), health.get("version")
    if not isinstance(adapter, str) or not isinstance(version, str) or not version[:1].isdigit():
        raise _NoAnswer(UnknownReason.INVALID, "it does not say which version and adapter it runs")
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
        raise _NoAnswer(UnknownReason.INVALID, "an action without a kind")
    return PlannedAction(kind) if kind in _KINDS else PlannedAction.OTHER


def _number(plan: dict[str, Any], name: str, *, most: float) -> float:
    value = plan.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _NoAnswer(UnknownReason.INVALID, f"{name} is not a number")
    if not 0.0 <= value <= most:
        raise _NoAnswer(UnknownReason.INVALID, f"{name} is out of range")
    return float(value)
