"""A recommendation as a patch that people apply: JSON (RFC 6902), strategic merge, or a kustomize component.

The operator applies none of them. Status carries what is needed (setting, value, place, a strategic patch where one can
be written); the live documents give the indices. For an engine's flag there is no strategic patch: its list of
arguments could only be replaced as a whole, and what else stands in it is nobody's business here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from optiinfra.api.v1alpha1.status_parts import RecommendationStatus
from optiinfra.domain.manifest_patch import Document, NoPatchError, Operation, argument_operations, merge_operations

CONTENT_TYPE = "application/json-patch+json"


class PatchFormat(StrEnum):
    """How a patch is written."""

    KUSTOMIZE = "kustomize"
    JSON = "json"
    STRATEGIC = "strategic"


@dataclass(frozen=True, slots=True)
class Subject:
    """An object that a patch changes."""

    api_version: str
    kind: str
    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class ObjectPatch:
    """The operations on one object."""

    subject: Subject
    operations: tuple[Operation, ...]


def subjects_of(item: RecommendationStatus, *, namespace: str) -> tuple[Subject, ...]:
    """Return the objects that a recommendation changes, in the order of its documents.

    Raises:
        NoPatchError: it changes no manifest, or which one is not known.
    """
    return tuple(subject for subject, _ in _documents(item, namespace=namespace))


def operations_of(
    item: RecommendationStatus, live: Mapping[Subject, Document], *, namespace: str
) -> tuple[ObjectPatch, ...]:
    """Return the exact operations on each object as it stands.

    Raises:
        NoPatchError: it cannot be changed exactly, or is so already.
    """
    found: list[ObjectPatch] = []
    for subject, patch in _documents(item, namespace=namespace):
        operations = (
            merge_operations(live[subject], patch)
            if patch is not None
            else argument_operations(
                live[subject],
                container=item.place.container if item.place is not None else "",
                flag=item.setting,
                value=item.proposed,
                given=item.current,
            )
        )
        if operations:
            found.append(ObjectPatch(subject, tuple(operations)))
    if not found:
        raise NoPatchError("the manifest says so already; nothing is left to change")
    return tuple(found)


def strategic(item: RecommendationStatus, *, namespace: str) -> str:
    """Return the strategic-merge documents.

    Raises:
        NoPatchError: there is none.
    """
    documents = _documents(item, namespace=namespace)
    if any(patch is None for _, patch in documents):
        raise NoPatchError("arguments can only be replaced as a whole by a strategic patch; ask for json or kustomize")
    whole = [
        {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "metadata": {"name": subject.name, "namespace": subject.namespace},
            "spec": (patch or {}).get("spec", {}),
        }
        for subject, patch in documents
    ]
    return yaml.safe_dump_all(whole, sort_keys=False)


def kustomize(patches: Sequence[ObjectPatch], *, identifier: str) -> str:
    """Return a kustomize component; name its folder under `components` of a kustomization.

    Tests of names and arguments stay, so that a manifest with another order fails instead of changing another field.
    Tests of other old values do not: what is written in Git as "0.5" the API server shows as "500m".
    """
    entries = []
    for patch in patches:
        group, _, version = patch.subject.api_version.rpartition("/")
        kept = [one for one in patch.operations if one["op"] != "test" or _identifies(one["path"])]
        entries.append(
            {
                "target": {
                    **({"group": group} if group else {}),
                    "version": version,
                    "kind": patch.subject.kind,
                    "name": patch.subject.name,
                },
                "patch": json.dumps(kept, indent=2) + "\n",
            }
        )
    document = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": entries}
    return f"# recommendation {identifier}\n{yaml.safe_dump(document, sort_keys=False)}"


def json_patches(patches: Sequence[ObjectPatch]) -> list[dict[str, Any]]:
    """Return the operations by object, as the HTTP API answers them."""
    return [
        {
            "target": {
                "apiVersion": one.subject.api_version,
                "kind": one.subject.kind,
                "namespace": one.subject.namespace,
                "name": one.subject.name,
            },
            "contentType": CONTENT_TYPE,
            "patch": list(one.operations),
        }
        for one in patches
    ]


def _identifies(path: str) -> bool:
    return path.endswith("/name") or "/args/" in path or "/command/" in path


def _documents(item: RecommendationStatus, *, namespace: str) -> list[tuple[Subject, dict[str, Any] | None]]:
    """Return what is changed, each with its strategic patch; None for a flag of the recommendation's place."""
    place = item.place
    own = None if place is None else Subject(place.api_version, place.kind, place.name, namespace)
    if item.patch:
        found: list[tuple[Subject, dict[str, Any] | None]] = []
        for document in yaml.safe_load_all(item.patch):
            name = document.get("metadata", {}).get("name", "")
            subject = Subject(document["apiVersion"], document["kind"], name, namespace) if name else own
            if subject is None:
                raise NoPatchError("which manifest it changes is not known; what to write is in its message")
            found.append((subject, document))
        return found
    if own is None or not item.setting.startswith("-"):
        raise NoPatchError(f"no patch can be written for {item.setting}; what to do is in its message")
    return [(own, None)]
