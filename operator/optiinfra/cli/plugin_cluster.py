"""What the kubectl plug-in reads and writes: our objects, and the manifests that patches are worked out on.

It speaks to the API server as whoever runs it, by their kubeconfig, and needs nothing of the operator: the status says
all. Its only write is the annotation of an approval, guarded by the version that was read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from optiinfra.api.patch_formats import ObjectPatch, operations_of, subjects_of
from optiinfra.api.v1alpha1 import APPROVE_ANNOTATION, ResourceOptimization
from optiinfra.api.v1alpha1.status_parts import RecommendationStatus
from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import Key
from optiinfra.cluster.manifests import read_manifest
from optiinfra.cluster.objects import Resources
from optiinfra.errors import OptiInfraError

_RESOURCE = Resources.RESOURCE_OPTIMIZATION.value


class NotFoundError(OptiInfraError):
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True)
class Found:
    """A recommendation and the object it belongs to."""

    obj: ResourceOptimization
    item: RecommendationStatus


def default_namespace(kubeconfig: str | None) -> str:
    """Return the namespace of the kubeconfig's current context; `default` where it names none."""
    files = (kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")).split(os.pathsep)
    for file in files:
        try:
            known = yaml.safe_load(Path(file).read_text())
        except (OSError, yaml.YAMLError):
            continue  # the client says what is wrong with it when it connects
        if not isinstance(known, dict) or not known.get("current-context"):
            continue
        for entry in known.get("contexts") or ():
            if entry.get("name") == known["current-context"]:
                return str((entry.get("context") or {}).get("namespace") or "default")
    return "default"


async def objects(client: KubernetesClient, *, namespace: str) -> list[ResourceOptimization]:
    """Read the objects of a namespace, of all where it is empty."""
    found = await client.list(_RESOURCE.collection(namespace))
    return [ResourceOptimization.parse({**one, "kind": _RESOURCE.kind}) for one in found]


async def one(client: KubernetesClient, *, namespace: str, name: str) -> ResourceOptimization:
    """Read one object."""
    return ResourceOptimization.parse(await client.get(_RESOURCE.path(Key(namespace, name))))


async def find(client: KubernetesClient, identifier: str, *, namespace: str) -> Found:
    """Find a recommendation by its id.

    Raises:
        NotFoundError: no object of the namespace has it now.
    """
    for obj in await objects(client, namespace=namespace):
        for item in obj.status.recommendations:
            if item.id == identifier:
                return Found(obj, item)
    raise NotFoundError(
        f"no recommendation in namespace {namespace} has the id {identifier} now; see `kubectl optiinfra status`"
    )


async def patches(client: KubernetesClient, found: Found) -> tuple[ObjectPatch, ...]:
    """Work the exact operations out on the objects as they stand."""
    namespace = found.obj.metadata.namespace
    live = {
        subject: await read_manifest(
            client,
            api_version=subject.api_version,
            kind=subject.kind,
            namespace=subject.namespace,
            name=subject.name,
        )
        for subject in subjects_of(found.item, namespace=namespace)
    }
    return operations_of(found.item, live, namespace=namespace)


async def change_approvals(client: KubernetesClient, found: Found, *, add: bool) -> str:
    """Put an id into the annotation, or take it out; returns the annotation as it is now."""
    metadata = found.obj.metadata
    ids = [part.strip() for part in metadata.annotations.get(APPROVE_ANNOTATION, "").split(",") if part.strip()]
    wanted = [part for part in ids if part != found.item.id] + ([found.item.id] if add else [])
    text = ",".join(wanted)
    body = {
        "metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "annotations": {APPROVE_ANNOTATION: text or None},
        }
    }
    key = Key(metadata.namespace, metadata.name)
    query = {"fieldManager": "kubectl-optiinfra"}
    await client.patch(_RESOURCE.path(key), body, kind=PatchKind.MERGE, query=query)
    return text
