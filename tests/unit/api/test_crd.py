"""The generator: structural, bounded, described, current; and the command around it."""

import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from click.testing import CliRunner
from pydantic import Field

from optiinfra.api import crd
from optiinfra.api.base import ApiModel
from optiinfra.api.reference import DOCUMENT, reference
from optiinfra.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


def walk(schema, path):
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from walk(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from walk(schema[key], f"{path}[]")


def nodes():
    for kind in crd.KINDS:
        version = crd.crd_of(kind)["spec"]["versions"][0]
        for part in ("spec", "status"):
            if part in version["schema"]["openAPIV3Schema"]["properties"]:
                yield from walk(version["schema"]["openAPIV3Schema"]["properties"][part], f"{kind.KIND}.{part}")


def test_committed_files_are_what_the_models_say():
    files = {ROOT / "crds" / name: text for name, text in crd.rendered().items()}
    files[ROOT / DOCUMENT] = reference()
    crd.check(files, directory=ROOT / "crds")


def test_everything_is_typed_described_and_bounded():
    for path, node in nodes():
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "allOf", "title", "const", "exclusiveMinimum"} & node.keys(), path
        if not path.endswith("[]"):
            assert node.get("description"), path
        if node.get("type") == "array":
            assert node.get("maxItems"), path
            assert node.get("x-kubernetes-list-type"), path
        if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
            assert node.get("maxLength") or node.get("enum"), path
        if "additionalProperties" in node:
            assert node.get("maxProperties"), path


def test_rules_have_a_message_with_a_remedy():
    rules = [(path, rule) for path, node in nodes() for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 40
    for path, rule in rules:
        assert len(rule["message"]) > 20, path
        assert "\n" not in rule["message"], path
        assert rule["rule"].isascii(), path


def test_status_has_no_defaults_and_spec_hides_no_choice_of_the_cluster_object():
    for path, node in nodes():
        if ".status" in path:
            assert "default" not in node, path
    for field in ("interval", "mode", "insights", "objectives", "policy"):
        found = [node for path, node in nodes() if path == f"ResourceOptimization.spec.{field}"]
        assert len(found) == 1
        assert "default" not in found[0]


def test_lists_that_are_merged_have_their_keys():
    keys = {path: node["x-kubernetes-list-map-keys"] for path, node in nodes() if "x-kubernetes-list-map-keys" in node}
    assert keys["ResourceOptimization.status.conditions"] == ["type"]
    assert keys["ResourceOptimization.status.recommendations"] == ["id"]
    assert keys["ResourceOptimization.status.actions"] == ["id"]
    assert keys["ResourceOptimization.spec.variants"] == ["name"]
    assert keys["ClusterResourceOptimization.spec.pools"] == ["name"]


def test_union_that_is_not_structural_is_refused_with_its_path():
    class Wrong(ApiModel):
        field: Annotated[int | float | str, Field()] = 1

    with pytest.raises(crd.SchemaError, match=r"Wrong\.field: a union"):
        crd.schema_of(Wrong)


def test_object_without_fields_is_refused_with_its_path():
    class Wrong(ApiModel):
        field: dict

    with pytest.raises(crd.SchemaError, match=r"Wrong\.field: an object without declared fields"):
        crd.schema_of(Wrong)


def test_command_writes_then_checks_then_finds_a_difference(tmp_path):
    arguments = ["crds", "--directory", str(tmp_path / "crds"), "--docs", str(tmp_path / "page.md")]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert run.output.count("wrote") == 4
    assert CliRunner().invoke(main, arguments).output == ""  # nothing differs, nothing is written
    assert CliRunner().invoke(main, [*arguments, "--check"]).exit_code == 0

    changed = next((tmp_path / "crds").glob("*.yaml"))
    changed.write_text(changed.read_text("utf-8").replace("maximum: 65535", "maximum: 65536") + "# x\n", "utf-8")
    run = CliRunner().invoke(main, [*arguments, "--check"])
    assert run.exit_code == 1
    assert changed.name in run.output
    assert "run `make crds`" in run.output


def test_check_finds_a_missing_and_a_left_over_file(tmp_path):
    arguments = ["crds", "--directory", str(tmp_path)]
    assert "not what the models say" in CliRunner().invoke(main, [*arguments, "--check"]).output
    CliRunner().invoke(main, arguments)
    (tmp_path / "optiinfra.io_formerkinds.yaml").write_text("{}", "utf-8")
    assert "formerkinds" in CliRunner().invoke(main, [*arguments, "--check"]).output


def test_files_are_plain_yaml():
    for text in crd.rendered().values():
        assert text.startswith("# Generated")
        found = yaml.safe_load(text)
        assert found["kind"] == "CustomResourceDefinition"
        assert "&id" not in text


def test_help_lists_commands_without_importing_them():
    sys.modules.pop("optiinfra.cli.crds", None)
    run = CliRunner().invoke(main, ["--help"])
    assert run.exit_code == 0
    for name, entry in COMMANDS.items():
        assert name in run.output
        assert entry.help[:20] in run.output
    assert "optiinfra.cli.crds" not in sys.modules


def test_unknown_command_is_refused():
    run = CliRunner().invoke(main, ["crd"])
    assert run.exit_code == 2
    assert "No such command 'crd'" in run.output
