"""Checks the Helm chart without a cluster: `python -m hack.chart_checks`, part of `make lint`.

Both Helm versions lint and render every value set of `charts/optiinfra/ci`; what comes out is validated against the
schemas of three Kubernetes minors. The rest holds what no tool knows: the CRDs are the generated ones, a variable that
a container gets is a setting of its process, an alert asks for a metric that exists, a value has a schema and a line
in the reference. It never talks to a cluster; installing is the business of tests/apiserver/test_chart.py.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from hack.binaries import ensure
from optiinfra.metrics import REGISTRY
from optiinfra.settings import OperatorSettings
from optiinfra_agent.settings import Settings as AgentSettings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "optiinfra"
REFERENCE = ROOT / "docs" / "reference" / "chart.md"
HELMS = ("helm", "helm4")
MINORS = ("1.30", "1.34", "1.37")
"""The oldest that Chart.yaml admits, one in between, the newest whose schemas are known."""
RELEASE = "optiinfra"
FOREIGN_GROUPS = ("monitoring.coreos.com/", "cert-manager.io/")
"""Groups whose schemas do not come with Kubernetes."""
FOREIGN_METRICS = frozenset({"aggregator_unavailable_apiservice", "up"})
_TIMEOUT_SECONDS = 300
"""Also for an uninstall that waits for what it gives back, on a machine that does other things."""
_METRIC = re.compile(r"\b([a-z][a-z0-9_]*)\s*\{")
_KEYWORDS = frozenset({"sum", "max", "count", "by", "or", "and", "unless"})

Document = dict[str, Any]
Rendered = dict[str, list[Document]]


class ChartError(Exception):
    """Something about the chart is wrong; the message says where."""


def cases(chart: Path = CHART) -> list[Path]:
    """Return the value sets that the chart is checked with."""
    return sorted((chart / "ci").glob("*-values.yaml"))


def helm(program: Path, *arguments: str) -> str:
    """Run helm without a cluster and return what it prints."""
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False, cwd=ROOT
    )
    if done.returncode:
        raise ChartError(f"{program.name} {arguments[0]}: {(done.stderr + done.stdout).strip()}")
    return done.stdout


def render(program: Path, values: Path, *, chart: Path = CHART) -> list[Document]:
    """Return the manifests of one value set."""
    text = helm(program, "template", RELEASE, str(chart), "--namespace", RELEASE, "--values", str(values))
    return [document for document in yaml.safe_load_all(text) if document]


def render_all(programs: Mapping[str, Path]) -> Rendered:
    """Lint and render every value set with every Helm; both must give the same objects."""
    rendered: Rendered = {}
    for values in cases():
        for name, program in programs.items():
            helm(program, "lint", "--strict", "--quiet", str(CHART), "--values", str(values))
            rendered[f"{name} {values.name}"] = render(program, values)
        first, second = (sorted(map(_name, rendered[f"{name} {values.name}"])) for name in programs)
        if first != second:
            raise ChartError(f"{values.name}: the two Helms render different objects: {set(first) ^ set(second)}")
    return rendered


def _name(document: Document) -> str:
    metadata = document["metadata"]
    return f"{document['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def _distinct(rendered: Rendered) -> list[Document]:
    # Most objects are the same in all value sets; validating them once is ten times faster.
    found = {
        json.dumps(document, sort_keys=True): document for documents in rendered.values() for document in documents
    }
    return list(found.values())


def check_schemas(rendered: Rendered) -> str:
    """Validate every object against the strict schemas of the minors."""
    checked, foreign = 0, 0
    for document in _distinct(rendered):
        if document["apiVersion"].startswith(FOREIGN_GROUPS):
            foreign += 1
            continue
        for minor in MINORS:
            try:
                kubernetes_validate.validate(document, minor, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(part) for part in error.absolute_path)
                raise ChartError(
                    f"{_name(document)}: not valid in Kubernetes {minor}: {path}: {error.message}"
                ) from error
            except kubernetes_validate.SchemaNotFoundError as error:
                raise ChartError(f"{_name(document)}: {error.message}") from error
        checked += 1
    return f"{checked} objects valid in Kubernetes {', '.join(MINORS)}; {foreign} of kinds without a public schema"


def check_duplicates(rendered: Rendered) -> str:
    """No object twice, and no environment variable twice: server-side apply (Helm 4) refuses both."""
    for case, documents in rendered.items():
        names = [_name(document) for document in documents]
        twice = {name for name in names if names.count(name) > 1}
        for document in documents:
            for container in containers(document):
                variables = [entry["name"] for entry in container.get("env", ())]
                twice |= {f"{_name(document)} {name}" for name in variables if variables.count(name) > 1}
        if twice:
            raise ChartError(f"{case}: twice: {', '.join(sorted(twice))}")
    return "no object and no variable twice"


def check_crds(rendered: Rendered) -> str:
    """The CRDs of the chart are the generated ones, and survive the release."""
    ours, generated = CHART / "files" / "crds", ROOT / "crds"
    names = {path.name for folder in (ours, generated) for path in folder.glob("*.yaml")}
    for name in sorted(names):
        files = [folder / name for folder in (ours, generated)]
        if not all(path.is_file() for path in files) or files[0].read_bytes() != files[1].read_bytes():
            raise ChartError(
                f"{files[0].relative_to(ROOT)} differs: optiinfra crds --directory {ours.relative_to(ROOT)}"
            )
    wanted = {}
    for path in sorted(generated.glob("*.yaml")):
        document = yaml.safe_load(path.read_text("utf-8"))
        wanted[document["metadata"]["name"]] = document["spec"]
    for documents in rendered.values():
        for document in documents:
            if document["kind"] != "CustomResourceDefinition":
                continue
            if document["metadata"]["annotations"].get("helm.sh/resource-policy") != "keep":
                raise ChartError(
                    f"{_name(document)}: without helm.sh/resource-policy: keep it would go with the release"
                )
            if document["spec"] != wanted[document["metadata"]["name"]]:
                raise ChartError(f"{_name(document)}: rendering changed it")
    return f"{len(names)} CRDs are the generated ones"


def containers(document: Document) -> list[Document]:
    """Return the containers of an object that makes pods."""
    found: list[Document] = document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    return found


def settings_of(container: str) -> set[str]:
    """Return the variables that a container's process knows."""
    if container == "agent":
        return {field.metadata["variable"] for field in fields(AgentSettings)}
    return {f"OPTIINFRA_{name.upper()}" for name in OperatorSettings.model_fields}


def check_variables(rendered: Rendered) -> str:
    """Every variable of ours is a setting, and the schema admits exactly those that no template sets."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    for process, free in free_settings(rendered).items():
        admitted = set(schema["properties"][process]["properties"]["environment"]["properties"])
        if wrong := admitted ^ set(free):
            raise ChartError(
                f"values.schema.json: {process}.environment admits too much or too little: {sorted(wrong)}:"
                " python -m hack.chart_checks --write"
            )
    return "every variable is a setting of its process"


def free_settings(rendered: Rendered) -> dict[str, list[str]]:
    """Return the settings of each process that no template sets: they may be given as its `environment`."""
    templated: dict[str, set[str]] = {"operator": set(), "agent": set()}
    for values in cases():
        given = yaml.safe_load(values.read_text("utf-8")) or {}
        for document in rendered[f"{HELMS[0]} {values.name}"]:
            for container in containers(document):
                process = "agent" if container["name"] == "agent" else "operator"
                names = {entry["name"] for entry in container["env"]}
                ours = {
                    name for name in names if name.startswith(("OPTIINFRA_", "ORCHESTRATOR_")) or name == "NODE_NAME"
                }
                if unknown := ours - settings_of(process):
                    raise ChartError(f"{_name(document)}: no setting of the process: {', '.join(sorted(unknown))}")
                templated[process] |= ours - given.get(process, {}).get("environment", {}).keys()
    return {process: sorted(settings_of(process) - used) for process, used in templated.items()}


def write_schema(rendered: Rendered) -> None:
    """Write the settings that may be given as `environment` into the schema; the rest of it is written by hand."""
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text("utf-8"))
    for process, free in free_settings(rendered).items():
        environment = schema["properties"][process]["properties"]["environment"]
        environment["properties"] = {name: {"type": "string", "maxLength": 1024} for name in free}
    path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


def check_alerts(rendered: Rendered) -> str:
    """Every metric in an alert exists, and every alert says what to do."""
    exported = {name for metric in REGISTRY.collect() for name in _series(metric.name, metric.type)} | FOREIGN_METRICS
    names = set()
    for document in _distinct(rendered):
        if document["kind"] != "PrometheusRule":
            continue
        for rule in (rule for group in document["spec"]["groups"] for rule in group["rules"]):
            names.add(rule["alert"])
            asked = set(_METRIC.findall(rule["expr"])) - _KEYWORDS
            if not asked or asked - exported:
                raise ChartError(f"alert {rule['alert']}: unknown metric {sorted(asked - exported)} in {rule['expr']}")
            if rule["expr"].count("{") != rule["expr"].count("}") or rule["expr"].count("(") != rule["expr"].count(")"):
                raise ChartError(f"alert {rule['alert']}: unbalanced expression {rule['expr']}")
            if missing := {"summary", "description", "runbook"} - rule["annotations"].keys():
                raise ChartError(f"alert {rule['alert']}: without {', '.join(sorted(missing))}")
    text = REFERENCE.read_text("utf-8")
    if untold := sorted(name for name in names if name not in text):
        raise ChartError(f"{REFERENCE.relative_to(ROOT)} does not name {', '.join(untold)}")
    return f"{len(names)} alerts ask for metrics that exist"


def _series(name: str, kind: str) -> set[str]:
    if kind == "counter":
        return {f"{name}_total"}
    return {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}


def paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the paths of a chart's values, down to what is no mapping of ours."""
    for key, value in values.items():
        path = f"{before}{key}"
        # `requests` and `limits` belong to Kubernetes; an empty mapping is filled by the user.
        if isinstance(value, dict) and value and key not in {"requests", "limits"}:
            yield from paths(value, f"{path}.")
        else:
            yield path


def check_values(_: Rendered) -> str:
    """Every value has a schema and a line in the reference, and nothing else has."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    known = list(paths(values))
    for path in known:
        _subschema(schema, path)
    text = REFERENCE.read_text("utf-8")
    told = set(re.findall(r"^\| `([A-Za-z.]+)` ", text, re.MULTILINE))
    if wrong := told ^ set(known):
        raise ChartError(f"{REFERENCE.relative_to(ROOT)}: values missing or not there any more: {sorted(wrong)}")
    _closed(schema, "values", schema["definitions"])
    return f"{len(known)} values have a schema and a line in the reference"


def _subschema(schema: Document, path: str) -> Document:
    node = schema
    for part in path.split("."):
        while "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        if part not in node.get("properties", {}):
            raise ChartError(f"values.schema.json does not know {path}")
        node = node["properties"][part]
    return node


def _closed(node: Any, path: str, definitions: Document) -> None:
    """Refuse an object schema that admits anything, but for those that Kubernetes itself checks."""
    if isinstance(node, dict):
        is_object = node.get("type") == "object"
        kubernetes = path.rpartition(".")[2] in {"nodeAffinity", "podAffinity", "podAntiAffinity", "global"}
        if is_object and "additionalProperties" not in node and not kubernetes:
            raise ChartError(f"values.schema.json: {path} admits any property")
        for key, value in node.items():
            _closed(value, f"{path}.{key}", definitions)


CHECKS: Sequence[Callable[[Rendered], str]] = (
    check_schemas,
    check_duplicates,
    check_crds,
    check_variables,
    check_alerts,
    check_values,
)


def main(arguments: Sequence[str]) -> int:
    """Run all checks and print what was checked; 1 when something is wrong."""
    if list(arguments) not in ([], ["--write"]):
        print("usage: python -m hack.chart_checks [--write]", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        rendered = render_all(ensure(HELMS))
        print(f"chart: {len(cases())} value sets linted and rendered with {' and '.join(HELMS)}")
        if arguments:
            write_schema(rendered)
        for check in CHECKS:
            print(f"chart: {check(rendered)}")
    except ChartError as error:
        print(f"chart: {error}", file=sys.stderr)
        return 1
    print(f"chart: all well after {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
