"""Definitions accept what the previous version's accepted: an upgrade never makes a user's object invalid.

The same is looked at for status, which the operator of the previous version wrote and which stays until the next round.
"""

import pytest
import yaml

from optiinfra.api import crd
from tests import previous_version

LESS_IS_NARROWER = ("maxLength", "maxItems", "maxProperties", "maximum")
MORE_IS_NARROWER = ("minLength", "minItems", "minProperties", "minimum")
SAME = (
    "pattern",
    "format",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "nullable",
)


def versions():
    """Yield the kind, and its one version as it was and as it is."""
    before = [yaml.safe_load(text) for text in previous_version.definition_files().values()]
    after = {document["metadata"]["name"]: document for document in map(crd.crd_of, crd.KINDS)}
    for document in before:
        yield document, after[document["metadata"]["name"]]


def narrowed(before, after, path):
    """Yield in words everything that was accepted before and is no more."""
    kind = {before.get("type"), after.get("type")}
    widened = kind == {"integer", None} and after.get("x-kubernetes-int-or-string")
    if len(kind) > 1 and not widened:
        yield f"{path}: {before.get('type')} became {after.get('type')}"
        return
    if missing := set(after.get("required", ())) - set(before.get("required", ())):
        yield f"{path}: now required: {sorted(missing)}"
    if "enum" in after and (gone := set(before.get("enum", [None])) - set(after["enum"])):
        yield f"{path}: no longer {gone}"
    for key in LESS_IS_NARROWER:
        if key in after and after[key] < before.get(key, float("inf")) and not (widened and key == "maxLength"):
            yield f"{path}: {key} from {before.get(key)} to {after[key]}"
    for key in MORE_IS_NARROWER:
        if after.get(key, float("-inf")) > before.get(key, float("-inf")):
            yield f"{path}: {key} from {before.get(key)} to {after[key]}"
    for key in SAME:
        if key in after and after[key] != before.get(key):
            yield f"{path}: {key} from {before.get(key)} to {after[key]}"
    rules = {rule["rule"] for rule in before.get("x-kubernetes-validations", ())}
    for rule in after.get("x-kubernetes-validations", ()):
        if rule["rule"] not in rules:
            yield f"{path}: a new rule: {rule['rule']}"
    if "default" in before and after.get("default") != before["default"]:
        yield f"{path}: what is meant by nothing was {before['default']!r} and is {after.get('default')!r}"
    properties = after.get("properties", {})
    for name, part in before.get("properties", {}).items():
        if name in properties:
            yield from narrowed(part, properties[name], f"{path}.{name}")
        else:
            yield f"{path}.{name}: gone, so that its value would be dropped"
    for key in ("items", "additionalProperties"):
        if key in before:
            yield from narrowed(before[key], after.get(key, {}), f"{path}[]")


def test_everything_that_was_accepted_still_is():
    found = []
    for before, after in versions():
        (one,), (other,) = before["spec"]["versions"], after["spec"]["versions"]
        found += narrowed(
            one["schema"]["openAPIV3Schema"], other["schema"]["openAPIV3Schema"], before["spec"]["names"]["kind"]
        )
    assert found == []


def test_nothing_by_which_objects_are_found_or_stored_has_changed():
    for before, after in versions():
        for document in (before, after):
            assert [(each["name"], each["storage"]) for each in document["spec"]["versions"]] == [("v1alpha1", True)]
        for key in ("group", "scope", "names"):
            assert after["spec"][key] == before["spec"][key]
        assert after["spec"]["versions"][0].get("subresources") == before["spec"]["versions"][0].get("subresources")


def test_no_definition_of_the_previous_version_is_left_out():
    assert set(previous_version.definition_files()) <= set(crd.rendered())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"type": "string"}, {"type": "integer"}, "string became integer"),
        ({"type": "object", "properties": {"a": {}}}, {"type": "object"}, "gone"),
        ({"type": "object"}, {"type": "object", "required": ["a"]}, "now required"),
        ({"type": "string", "enum": ["a", "b"]}, {"type": "string", "enum": ["a"]}, "no longer"),
        ({"type": "string"}, {"type": "string", "enum": ["a"]}, "no longer"),
        ({"type": "string"}, {"type": "string", "maxLength": 3}, "maxLength"),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}, "minimum"),
        ({"type": "object"}, {"type": "object", "x-kubernetes-validations": [{"rule": "false"}]}, "a new rule"),
        ({"type": "boolean", "default": True}, {"type": "boolean", "default": False}, "was True and is False"),
        ({"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {}}, "string became None"),
    ],
)  # fmt: skip
def test_the_comparison_sees_what_would_make_objects_invalid(before, after, said):
    (told,) = narrowed(before, after, "here")
    assert said in told


def test_the_comparison_lets_definitions_grow():
    before = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "maxLength": 3}}}
    grown = {"a": {"type": "string", "maxLength": 5, "enum": None}, "b": {"type": "string"}}
    del grown["a"]["enum"]
    assert list(narrowed(before, {"type": "object", "properties": grown}, "here")) == []
