"""What KEDA is told: is a service active, which metric drives it, and how many replicas it shall have.

A trigger names the ResourceOptimization in its metadata; the namespace is that of the ScaledObject, as KEDA says it, so
that nobody reads another namespace's decisions. Only a decision that holds now is an answer. Unsure, stale, suspended,
or a leader that does not answer: each is an error with its reason, and KEDA's fallback and second trigger take over.

`GetMetricSpec` alone always answers, whatever is known: the metric never changes, and KEDA would build its HPA without
it, until the next change of the ScaledObject, were the question answered with an error.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optiinfra.web.followers import LeaderSilentError
from optiinfra.web.keda.messages import (
    MessageError,
    MetricSpec,
    MetricValue,
    ScaledObjectRef,
    read_get_metrics_request,
    read_scaled_object_ref,
    write_is_active,
    write_metric_specs,
    write_metric_values,
)
from optiinfra.web.keda.status import CallError, Code
from optiinfra.web.ports import Decision

METRIC = "optiinfra_desired_replicas"
OBJECT_KEY = "resourceOptimization"
VARIANT_KEY = "variant"
LOOK_SECONDS = 1.0
"""How often a pushed stream looks whether the answer has changed."""
_REASON_LENGTH = 400

Find = Callable[[str, str], Mapping[str, Any] | None]
"""(namespace, name) -> a ResourceOptimization as last seen."""


class Decisions(Protocol):
    """Published decisions; `optiinfra.web.followers` is the real one."""

    async def ask(self, namespace: str) -> Sequence[Decision]:
        """Decisions of a namespace that hold now, or LeaderSilentError."""


@dataclass(frozen=True, slots=True)
class ExternalScaler:
    """The four calls of KEDA's protocol: a request message in, a response message out, or CallError."""

    decisions: Decisions
    find: Find
    look_seconds: float = LOOK_SECONDS

    async def is_active(self, message: bytes) -> bytes:
        """Tell whether the service shall have replicas at all: no only where zero was decided."""
        return write_is_active(active=(await self._decision(_reference(message))).replicas > 0)

    async def stream_is_active(self, message: bytes) -> AsyncGenerator[bytes]:
        """Tell the same at once and whenever it changes; ends with CallError as soon as it is not known."""
        reference = _reference(message)
        told: bool | None = None
        while True:
            active = (await self._decision(reference)).replicas > 0
            if active is not told:
                told = active
                yield write_is_active(active=active)
            await asyncio.sleep(self.look_seconds)

    async def get_metric_spec(self, message: bytes) -> bytes:
        """Name the metric; with a target of 1 a replica, its value is the count."""
        _published_name(_reference(message))
        return write_metric_specs([MetricSpec(METRIC, 1)])

    async def get_metrics(self, message: bytes) -> bytes:
        """Return the decided replicas."""
        try:
            request = read_get_metrics_request(message)
        except MessageError as error:
            raise CallError(Code.INVALID_ARGUMENT, f"GetMetricsRequest: {error}") from error
        if request.metric_name not in {"", METRIC}:
            raise CallError(Code.INVALID_ARGUMENT, f"metric '{request.metric_name[:80]}': the only one is {METRIC}")
        decision = await self._decision(request.scaled_object_ref)
        return write_metric_values([MetricValue(METRIC, decision.replicas)])

    async def _decision(self, reference: ScaledObjectRef) -> Decision:
        name, namespace = _published_name(reference), reference.namespace
        try:
            decisions = await self.decisions.ask(namespace)
        except LeaderSilentError as error:
            raise CallError(Code.UNAVAILABLE, str(error)) from error
        found = next((each for each in decisions if each.name == name), None)
        if found is not None:
            return found
        document = self.find(namespace, reference.scaler_metadata[OBJECT_KEY])
        if document is None:
            text = f"there is no ResourceOptimization {namespace}/{reference.scaler_metadata[OBJECT_KEY][:253]}"
            raise CallError(Code.NOT_FOUND, text)
        raise CallError(Code.FAILED_PRECONDITION, f"no decision is published for {name}: {_why(document)}")


def _reference(message: bytes) -> ScaledObjectRef:
    try:
        return read_scaled_object_ref(message)
    except MessageError as error:
        raise CallError(Code.INVALID_ARGUMENT, f"ScaledObjectRef: {error}") from error


def _published_name(reference: ScaledObjectRef) -> str:
    """Name under which the decision is published, from the metadata of the trigger."""
    name, variant = (reference.scaler_metadata.get(key, "") for key in (OBJECT_KEY, VARIANT_KEY))
    if not name:
        text = f"the trigger's metadata need '{OBJECT_KEY}': the name of a ResourceOptimization in its namespace"
        raise CallError(Code.INVALID_ARGUMENT, text)
    if not reference.namespace:
        raise CallError(Code.INVALID_ARGUMENT, "the ScaledObject has no namespace")
    return f"{name}.{variant}" if variant else name


def _why(document: Mapping[str, Any]) -> str:
    """Say what the object's own status says of it: the first condition that is not well."""
    conditions = document.get("status", {}).get("conditions") or ()
    for condition in conditions:
        well = "False" if condition.get("type") in {"Stalled", "Reconciling", "Degraded"} else "True"
        if condition.get("status") != well:
            words = (str(condition.get(key, "")) for key in ("type", "reason", "message"))
            return ": ".join(filter(None, words))[:_REASON_LENGTH]
    return (
        "its status does not say why; look whether its mode, actuation (Signal) and the trigger's variant are meant so"
    )
