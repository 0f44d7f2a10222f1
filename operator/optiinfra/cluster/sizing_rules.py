"""The rules of a namespace that requests have to live with: VerticalPodAutoscalers and LimitRanges, as facts.

Listed, never watched and never written: they hardly ever change. A cluster without the VPA's kind has none, which is
known; a list that is refused is an `Unknown`, and whoever sizes says that he could not look.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, key_of, mapping, objects, text, texts
from optiinfra.cluster.errors import Absent, ClusterError, Denied, Malformed
from optiinfra.cluster.quantities import quantity_in
from optiinfra.domain.pod_shape import Resource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.sizing_rules import ContainerPolicy, ContainerRange, NamespaceRules, VerticalScaler

MOST: Final = 500
"""Objects of one kind that are read of a namespace."""
_DEFAULT_MODE: Final = "Recreate"
"""What a VerticalPodAutoscaler without updateMode does: it acts."""
_T = TypeVar("_T")


class SizingRules:
    """Lists both kinds."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def read(self, namespace: str) -> NamespaceRules:
        """Return the rules of a namespace; never raises for an answer of the server."""
        return NamespaceRules(
            vertical_scalers=await self._list(
                f"/apis/autoscaling.k8s.io/v1/namespaces/{namespace}/verticalpodautoscalers",
                lambda document: (parse_vertical_scaler(document),),
            ),
            ranges=await self._list(f"/api/v1/namespaces/{namespace}/limitranges", parse_limit_range),
        )

    async def _list(self, path: str, parse: Callable[[JsonObject], tuple[_T, ...]]) -> tuple[_T, ...] | Unknown:
        try:
            found = await self._client.list(path, page_size=MOST)
            return tuple(one for document in found[:MOST] for one in parse(document))
        except Absent:
            return ()
        except Denied as error:
            return Unknown(UnknownReason.REFUSED, error.message[:256])
        except Malformed as error:
            return Unknown(UnknownReason.INVALID, error.message[:256])
        except ClusterError as error:
            return Unknown(UnknownReason.UNREACHABLE, error.message[:256])


def parse_vertical_scaler(document: JsonObject) -> VerticalScaler:
    """Parse an autoscaling.k8s.io/v1 VerticalPodAutoscaler."""
    return VerticalScaler(
        name=key_of(document).name,
        target_kind=text(document, "spec", "targetRef", "kind"),
        target_name=text(document, "spec", "targetRef", "name"),
        mode=text(document, "spec", "updatePolicy", "updateMode") or _DEFAULT_MODE,
        policies=tuple(_policy(entry) for entry in objects(document, "spec", "resourcePolicy", "containerPolicies")),
    )


def _policy(entry: JsonObject) -> ContainerPolicy:
    return ContainerPolicy(
        container=text(entry, "containerName"),
        off=text(entry, "mode") == "Off",
        resources=texts(entry, "controlledResources") or ("cpu", "memory"),
    )


def parse_limit_range(document: JsonObject) -> tuple[ContainerRange, ...]:
    """Parse a v1 LimitRange: its items of type Container, by resource."""
    name = key_of(document).name
    found: list[ContainerRange] = []
    for item in objects(document, "spec", "limits"):
        if text(item, "type") != "Container":
            continue
        for resource in Resource:
            one = ContainerRange(
                limit_range=name,
                resource=resource,
                least=quantity_in(mapping(item, "min"), resource),
                most=quantity_in(mapping(item, "max"), resource),
                ratio=quantity_in(mapping(item, "maxLimitRequestRatio"), resource),
            )
            if (one.least, one.most, one.ratio) != (None, None, None):
                found.append(one)
    return tuple(found)
