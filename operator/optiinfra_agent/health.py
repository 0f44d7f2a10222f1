"""How the agent is, as one word and component by component.

*unhealthy*: the numbers cannot be relied on (no snapshot, an old one, or a loop that stands still). *degraded*: the
snapshot is current and some source is denied, failed or stuck. *healthy*: everything else; a node without a driver
is healthy, because a missing GPU is not a fault. The orchestrator being away never makes the agent less healthy: it
works on without it.
"""

from dataclasses import dataclass
from typing import Any

from optiinfra_agent import __version__
from optiinfra_agent.capabilities import assess as assess_capabilities
from optiinfra_agent.collection import UNWELL, Collection, Published
from optiinfra_agent.registration import RegistrationState, Report
from optiinfra_agent.snapshot import SourceName, SourceState, Unknown
from optiinfra_agent.traffic import Answered

PAGES = ("snapshot.v1", "metrics")
_CAPABILITIES = {
    SourceName.NVML: "gpu",
    SourceName.CPU: "cpu",
    SourceName.MEMORY: "memory",
    SourceName.PRESSURE: "pressure",
    SourceName.NETWORK: "network",
    SourceName.DISKS: "disks",
    SourceName.NUMA: "numa",
    SourceName.POD_RESOURCES: "allocations",
    SourceName.CONTAINERS: "containers",
    SourceName.OWN_CGROUP: "own_cgroup",
}


@dataclass(frozen=True, slots=True)
class Health:
    """One word, and why it is not the best one."""

    status: str
    reasons: tuple[str, ...]

    @property
    def serving(self) -> bool:
        """Whether the numbers can be relied on."""
        return self.status != "unhealthy"


def assess(collection: Collection) -> Health:
    """Return how the agent is at this moment."""
    broken = tuple(reason for reason in (collection.liveness(), collection.readiness()) if reason)
    if broken:
        return Health(status="unhealthy", reasons=broken)
    published = collection.published
    unwell = tuple(
        f"{name.value} is {report.state.value}: {report.reason}"
        for name, report in (published.snapshot.sources.items() if published else ())
        if report.state in UNWELL
    )
    return Health(status="degraded" if unwell else "healthy", reasons=unwell)


def capabilities(published: Published | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what this agent can give at present, and why it cannot give the rest."""
    sources = published.snapshot.sources if published else {}
    able = tuple(_CAPABILITIES[name] for name, report in sources.items() if report.state is SourceState.OK)
    missing = {
        _CAPABILITIES[name]: f"{report.state.value}: {report.reason}"
        for name, report in sources.items()
        if report.state is not SourceState.OK
    }
    return (*PAGES, *able), missing


def detail(collection: Collection, registration: RegistrationState) -> dict[str, Any]:
    """Return the document of `/health/detailed`."""
    health = assess(collection)
    published = collection.published
    components: dict[str, Any] = {}
    if published is not None:
        components = {
            name.value: {
                "state": report.state.value,
                "reason": report.reason,
                "time": report.time,
                "duration_s": report.duration_s,
            }
            for name, report in published.snapshot.sources.items()
        }
        held = published.snapshot.privilege
        components["privilege"] = {
            "state": "ok",
            "tier": held.tier,
            "missing": {str(tier): reason for tier, reason in held.missing.items()},
        }
        attribution = published.snapshot.attribution
        components["attribution"] = {
            "state": "ok" if not attribution.unresolved else "incomplete",
            "by": attribution.by.value,
            "reason": attribution.reason,
            "unresolved": attribution.unresolved,
        }
        components["capabilities"] = {"state": "ok", "probes": published.probes, **_abilities(published)}
    age = collection.age_s()
    stopped = collection.liveness()
    components["collection"] = {
        "state": "failed" if stopped else "ok",
        "reason": stopped or collection.readiness(),
        "snapshot_age_s": None if age is None else round(age, 3),
        "passes": published.passes if published else 0,
    }
    components["registration"] = {
        "state": _registration_state(registration),
        "reason": registration.error,
        "failures": registration.failures,
        "heartbeat_time": registration.heartbeat_time,
    }
    return {
        "status": health.status,
        "reasons": list(health.reasons),
        "version": __version__,
        "components": components,
    }


def _abilities(published: Published) -> dict[str, Any]:
    """Return every capability with its state; of those of GPUs, how many of them have it."""
    found: dict[str, Any] = {}
    for one in assess_capabilities(published.snapshot):
        gpus = {} if one.gpus is None else {"gpus": one.gpus}
        found[one.name] = {"state": one.state, **({"reason": one.reason} if one.reason else {}), **gpus}
    return {"able": found}


def _registration_state(registration: RegistrationState) -> str:
    if not registration.wanted:
        return "off"
    if registration.failures:
        return "failing"
    return "registered" if registration.registered else "starting"


def report(collection: Collection, answered: Answered) -> Report:
    """Return what the agent says about itself to the orchestrator. What is not known is left out."""
    published = collection.published
    metrics: dict[str, float] = {}
    if published is not None:
        snapshot = published.snapshot
        values = {
            "cpu_utilization_ratio": snapshot.cpu.utilization_ratio,
            "memory_total_bytes": snapshot.memory.total_bytes,
            "memory_used_bytes": snapshot.memory.used_bytes,
        }
        metrics = {name: value for name, value in values.items() if not isinstance(value, Unknown)}
        if snapshot.sources[SourceName.NVML].state is SourceState.OK:
            metrics["gpus"] = len(snapshot.gpus)
    metrics["requests_total"] = answered.requests
    if answered.mean_s is not None:
        metrics["request_mean_seconds"] = round(answered.mean_s, 6)
    return Report(status=assess(collection).status, capabilities=capabilities(published)[0], metrics=metrics)
