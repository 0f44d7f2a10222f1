"""Writes docs/reference/custom-resources.md from the models: fields, rules, columns, conditions and their reasons."""

from collections.abc import Iterator
from typing import Any, Final

from optiinfra.api.base import VALIDATIONS
from optiinfra.api.conditions import ConditionType
from optiinfra.api.crd import KINDS, crd_of
from optiinfra.api.reasons import EXPLANATIONS
from optiinfra.api.v1alpha1.resource import CustomResource

DOCUMENT: Final = "docs/reference/custom-resources.md"

_INTRODUCTION: Final = """\
<!-- Generated from operator/optiinfra/api; do not edit: make crds -->

# Custom resources

Group `optiinfra.io`, version `v1alpha1`. The API server checks everything on this page when an object is written;
each refusal names the field and the remedy. Durations are GEP-2257 strings (`30s`, `5m`, `1h30m`), shares are quoted
ratios or percentages (`"0.01"`, `60%`), amounts of money are whole numbers or quoted decimals (`2`, `"2.50"`).

Where a field says *Built-in*, nothing is filled in by the API server: the object's own value counts first, then
`spec.defaults` of the `ClusterResourceOptimization`, then the built-in value.
"""

_CONDITIONS: Final = {
    ConditionType.READY: "The object was analysed and, where allowed, acted on. `kubectl wait --for=condition=Ready`.",
    ConditionType.RECONCILING: "True while a generation of the spec has not had its first full round.",
    ConditionType.STALLED: "True when nothing can go on until somebody changes something.",
    ConditionType.METRICS_AVAILABLE: "Whether what decisions need is measured.",
    ConditionType.ANALYSIS_COMPLETE: "Whether the last analysis went through.",
    ConditionType.INSIGHTS_AVAILABLE: "Whether a language model explains the recommendations.",
    ConditionType.ACTUATION_EFFECTIVE: "Whether what runs follows what was decided.",
    ConditionType.PRICES_KNOWN: "Whether every node that is paid for has a price.",
    ConditionType.WITHIN_LIMITS: "Whether all pools keep within their maxGpus and monthlyBudget.",
    ConditionType.APPROVALS_ACCEPTED: (
        "Whether every id in the annotation optiinfra.io/approve counts; the message names each that does not, and why."
        " Absent while nobody approves anything."
    ),
    ConditionType.DEGRADED: "True while only a part of the work can be done.",
}


def reference() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    for kind in KINDS:
        parts.extend(_kind(kind))
    parts.extend(_conditions())
    return "\n".join(parts).rstrip() + "\n"


def _kind(kind: type[CustomResource]) -> Iterator[str]:
    crd = crd_of(kind)
    version = crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    scope = "namespaced" if kind.SCOPE == "Namespaced" else "cluster-scoped"
    yield f"## {kind.KIND}\n"
    yield f"{schema['description']}\n"
    yield f"{scope.capitalize()}; short name `{', '.join(kind.SHORT_NAMES)}`; category `{kind.CATEGORIES[0]}`.\n"
    yield "### Columns\n"
    yield "| column | shows | from |\n|---|---|---|"
    yield "\n".join(
        f"| {column.name} | {column.description} | `{_cell(column.json_path)}` |" for column in kind.COLUMNS
    )
    for part in ("spec", "status"):
        if part in schema["properties"]:
            yield f"\n### {part} of {kind.KIND}\n"
            yield "| field | type | default | bounds | meaning |\n|---|---|---|---|---|"
            yield "\n".join(_rows(schema["properties"][part], part))
    rules = list(_rules(schema["properties"]["spec"], "spec"))
    if rules:
        yield f"\n### Rules of {kind.KIND}\n"
        yield "\n".join(f"- `{path}`: {message}" for path, message in rules)
    yield ""


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        default = part.get("default")
        shown = "" if default is None or isinstance(default, dict) else f"`{_plain(default)}`"
        if name in required:
            shown = "required"
        yield f"| `{below}` | {_type(part)} | {shown} | {_bounds(part)} | {_cell(part.get('description', ''))} |"
        yield from _rows(part, below)
        if "items" in part:
            yield from _rows(part["items"], f"{below}[]")


def _type(part: dict[str, Any]) -> str:
    if part.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if part["type"] == "array":
        return f"list of {_type(part['items'])}"
    if "additionalProperties" in part:
        return f"map of {_type(part['additionalProperties'])}"
    return str(part["type"])


def _bounds(part: dict[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if _scalar(part) and VALIDATIONS in part:
        return _cell("; ".join(rule["message"].removeprefix("write ") for rule in part[VALIDATIONS]))
    words = []
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in part and high in part:
            words.append(f"{part[low]} to {part[high]}{unit}")
        elif high in part:
            words.append(f"at most {part[high]}{unit}")
        elif low in part:
            words.append(f"at least {part[low]}{unit}")
    return ", ".join(words)


def _rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    if not _scalar(schema):  # those of single values stand among the bounds
        for rule in schema.get(VALIDATIONS, ()):
            yield path, rule["message"]
    for name, part in schema.get("properties", {}).items():
        yield from _rules(part, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _conditions() -> Iterator[str]:
    yield "## Conditions\n"
    yield "In the order of kstatus, as Flux, Argo CD and `kubectl wait` read them.\n"
    yield "| type | means |\n|---|---|"
    yield "\n".join(f"| `{kind}` | {_CONDITIONS[kind]} |" for kind in ConditionType)
    yield "\n### Reasons\n"
    yield "| reason | means | remedy |\n|---|---|---|"
    yield "\n".join(f"| `{reason}` | {what.sentence} | {what.remedy} |" for reason, what in EXPLANATIONS.items())


def _scalar(part: dict[str, Any]) -> bool:
    return part.get("type") not in {"object", "array"}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
