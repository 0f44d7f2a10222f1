"""Writes CustomResourceDefinitions from the models, the only source of the schema.

Pydantic's JSON schema becomes a structural Kubernetes schema: references inlined, null taken out of unions,
int-or-string marked, titles dropped, list-map keys and CEL rules kept as the models carry them. What cannot be said
structurally is refused here with the field's path, not left for the API server to find.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from optiinfra.api.base import VALIDATIONS
from optiinfra.api.errors import ApiError, OutdatedFiles
from optiinfra.api.v1alpha1 import (
    ClusterResourceOptimization,
    OptimizationCheckpoint,
    ResourceOptimization,
)
from optiinfra.api.v1alpha1.resource import Column, CustomResource

KINDS: Final[tuple[type[CustomResource], ...]] = (
    ResourceOptimization,
    ClusterResourceOptimization,
    OptimizationCheckpoint,
)

HEADER: Final = "# Generated from operator/optiinfra/api; do not edit: make crds\n"

_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    VALIDATIONS,
)
"""Keywords copied as they are. The order is that of the written file."""

_NAME_RULE: Final = {
    "rule": "self.metadata.name.size() <= 63",
    "message": "metadata.name may have at most 63 characters, because it becomes a label value: choose a shorter name",
}


class SchemaError(ApiError):
    """A model says something that a structural schema cannot."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the structural schema of a model.

    Raises:
        SchemaError: the model was imported without the descriptions of its fields, as a running operator imports it.
    """
    if not model.model_config.get("use_attribute_docstrings"):
        raise SchemaError(f"{model.__name__} was imported without descriptions; run `optiinfra crds` on its own")
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=GenerateJsonSchema)
    return _structural(raw, raw.get("$defs", {}), path=model.__name__)


def crd_of(kind: type[CustomResource]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": "Version of the schema."},
        "kind": {"type": "string", "description": "Kind of the object."},
        "metadata": {"type": "object"},
        "spec": schema_of(_model(kind, "spec")),
    }
    if kind.STATUS_SUBRESOURCE:
        properties["status"] = _without_defaults(schema_of(_model(kind, "status")))
    version: dict[str, Any] = {
        "name": kind.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.COLUMNS],
        "schema": {
            "openAPIV3Schema": {
                "description": _sentence(kind.__doc__),
                "type": "object",
                "required": ["spec"],
                "properties": properties,
                VALIDATIONS: [_NAME_RULE],
            }
        },
    }
    if kind.STATUS_SUBRESOURCE:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{kind.GROUP}"},
        "spec": {
            "group": kind.GROUP,
            "scope": kind.SCOPE,
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.SINGULAR,
                "shortNames": list(kind.SHORT_NAMES),
                "categories": list(kind.CATEGORIES),
            },
            "conversion": {"strategy": "None"},
            "versions": [version],
        },
    }


def rendered() -> dict[str, str]:
    """Return the text of every file, by its name."""
    return {f"{kind.GROUP}_{kind.PLURAL}.yaml": render(crd_of(kind)) for kind in KINDS}


def render(crd: dict[str, Any]) -> str:
    """Write a CRD as YAML, with the header."""
    return HEADER + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def write(files: dict[Path, str]) -> list[Path]:
    """Write the files that differ; return them."""
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    return changed


def check(files: dict[Path, str], *, directory: Path) -> None:
    """Raise OutdatedFiles when a file differs, is missing, or lies there without a kind of its own."""
    wrong = [str(path) for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    wrong += [str(path) for path in sorted(directory.glob("*.yaml")) if path not in files]
    if wrong:
        raise OutdatedFiles(f"{', '.join(wrong)}: not what the models say; run `make crds` and commit the result")


class _Dumper(yaml.SafeDumper):
    """Writes repeated parts in full: anchors and aliases are hard to review."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the name that the base class calls it by
        """Write everything in full."""
        return True


def _model(kind: type[CustomResource], field: str) -> type[BaseModel]:
    annotation = kind.model_fields[field].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        raise SchemaError(f"{kind.KIND}.{field}: must be a model")
    return annotation


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        "description": column.description,
    }
    return entry | ({"priority": column.priority} if column.priority else {})


def _structural(node: dict[str, Any], definitions: dict[str, Any], *, path: str) -> dict[str, Any]:
    """Turn one node of pydantic's schema, and all below it, into its structural form."""
    node = _resolve(node, definitions, path=path)
    if "anyOf" in node or "oneOf" in node or "allOf" in node:
        raise SchemaError(f"{path}: a union of several types cannot be written structurally")
    schema = {key: node[key] for key in _KEPT if key in node}
    if "description" in schema:
        schema["description"] = _sentence(schema["description"])
    if "const" in node:
        schema["enum"] = [node["const"]]
    if "items" in node:
        schema["items"] = _structural(node["items"], definitions, path=f"{path}[]")
    if node.get("type") == "object":
        if "properties" in node:
            schema["properties"] = {
                name: _structural(part, definitions, path=f"{path}.{name}") for name, part in node["properties"].items()
            }
        elif isinstance(node.get("additionalProperties"), dict):
            schema["additionalProperties"] = _structural(node["additionalProperties"], definitions, path=f"{path}{{}}")
        else:
            raise SchemaError(f"{path}: an object without declared fields")
    elif "type" not in node and not node.get("x-kubernetes-int-or-string"):
        raise SchemaError(f"{path}: no type")
    if "default" in schema:
        _tidy_default(schema)
    return schema


def _resolve(node: dict[str, Any], definitions: dict[str, Any], *, path: str) -> dict[str, Any]:
    """Inline a reference and a union with null; what stands beside a reference wins over what it names."""
    node = dict(node)
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            inner = definitions[node.pop("$ref").removeprefix("#/$defs/")]
        else:
            options = [option for option in node.pop("anyOf") if option.get("type") != "null"]
            if {option.get("type") for option in options} == {"integer", "string"}:
                inner = {"x-kubernetes-int-or-string": True}
                inner |= {key: option[key] for option in options for key in ("maxLength", "maximum") if key in option}
            elif len(options) == 1:
                inner = options[0]
            else:
                raise SchemaError(f"{path}: a union of several types cannot be written structurally")
        rules = [*inner.get(VALIDATIONS, ()), *node.get(VALIDATIONS, ())]
        node = {**inner, **node} | ({VALIDATIONS: rules} if rules else {})
    return node


def _tidy_default(schema: dict[str, Any]) -> None:
    """Keep a default only where there is something to fill in, and whole: rules are tried on it as it stands here."""
    default = _filled(schema["default"])
    if default is None:
        del schema["default"]
    else:
        schema["default"] = default


def _filled(default: Any) -> Any:
    """Return a default without its empty parts; None when nothing is left."""
    if isinstance(default, dict):
        parts = {name: _filled(part) for name, part in default.items()}
        default = {name: part for name, part in parts.items() if part is not None}
    return default if isinstance(default, bool | int | float) or default else None


def _without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Take out all defaults: a status shows what was written and nothing else."""
    schema.pop("default", None)
    for part in _children(schema):
        _without_defaults(part)
    return schema


def _children(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from schema.get("properties", {}).values()
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema[key]


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())
