"""The documentation against the code: what a page names must exist, and what exists must be on its page."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import click
import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hack import readme
from optiinfra import metrics
from optiinfra.api.crd import KINDS, crd_of
from optiinfra.api.reasons import Reason
from optiinfra.cli.main import COMMANDS
from optiinfra.settings import OperatorSettings
from optiinfra.web import agents, health, optimize, patches, savings
from optiinfra.web.app import create_app
from optiinfra.web.external_metrics import ExternalMetrics
from optiinfra_agent import settings as agent_settings
from optiinfra_agent import snapshot as agent_snapshot
from optiinfra_agent.metrics import Exposition
from optiinfra_agent.server import Application
from optiinfra_sim.main import main as simulator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./$@{-])(?:operator|docs|charts|examples|hack|tests|bench|crds|changelog\.d)/[\w./-]*\w"
)
ENVIRONMENT = re.compile(r"\bOPTIINFRA_[A-Z0-9_]*[A-Z0-9]\b")
METRIC = re.compile(r"\boptiinfra_[a-z0-9_]+\b")
PACKAGES = {"optiinfra_agent", "optiinfra_sim"}
SIMULATED = "optiinfra_simulated"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    return [body for _, language, body in FENCE.findall(page.read_text()) if language in languages]


def prose(page):
    return FENCE.sub("", page.read_text())


def anchors(page):
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", LINK.sub(lambda match: match[0][1 : match[0].index("]")], heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


def section(page, title):
    text = page.read_text()
    start = text.index(f"\n## {title}\n")
    end = text.find("\n## ", start + 1)
    return text[start : end if end > 0 else None]


def rows(text):
    """Return the cells of every table row, without the rule below the heading."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


# ---- links, paths, names


@pages
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(file):
            broken.append(f"{target}: no such heading")
    assert not broken


@pages
def test_every_path_of_the_repository_exists(page):
    text = re.sub(r"\bhttps?://\S+", "", page.read_text())
    named = {path.rstrip(".") for path in REPOSITORY_PATH.findall(text)}
    # The architecture names `operator/__init__.py` because it must not exist.
    assert not {path for path in named if not (ROOT / path).exists()} - {"operator/__init__.py"}


@pages
def test_every_environment_variable_is_a_setting(page):
    known = {f"OPTIINFRA_{name.upper()}" for name in OperatorSettings.model_fields}
    known |= {field.metadata["variable"] for field in dataclasses.fields(agent_settings.Settings)}
    known |= {"OPTIINFRA_KUBE_BIN"}
    assert not set(ENVIRONMENT.findall(page.read_text())) - known


@pages
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*blocks(page, ""), *CODE.findall(prose(page))])
    assert not set(re.findall(r"^make ([a-z][a-z0-9-]*)", code, re.MULTILINE)) - targets


def schema_at(schema, path):
    """Walk a dotted path, `items[].like.this`, through a schema; None where it leads nowhere."""
    for part in path.split("."):
        if isinstance(schema.get("additionalProperties"), dict):
            return schema
        schema = schema.get("properties", {}).get(part.removesuffix("[]"))
        if schema is None:
            return None
        if part.endswith("[]") or schema.get("type") == "array":
            schema = schema["items"]
    return schema


@pages
def test_every_field_of_our_kinds_exists(page):
    schemas = [crd_of(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind in KINDS]
    code = [word.partition(":")[0].partition("=")[0].strip() for word in CODE.findall(prose(page))]
    named = [word for word in code if re.fullmatch(r"(spec|status)(\.\w+(\[\])?)+", word)]
    assert not [path for path in named if all(schema_at(schema, path) is None for schema in schemas)]


def exists_in(values, path):
    """Whether a dotted path leads to a value; what lies below an empty map is the user's own."""
    for part in path.split("."):
        if values == {}:
            return True
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


@pages
def test_every_value_of_the_chart_exists(page):
    values = yaml.safe_load((ROOT / "charts/optiinfra/values.yaml").read_text())
    code = [word.partition(":")[0].strip() for word in CODE.findall(prose(page))]
    named = [word for word in code if re.fullmatch(rf"({'|'.join(values)})(\.\w+)+", word) and not word.endswith(".py")]
    assert not [path for path in named if not exists_in(values, path)]


# ---- examples


@pages
def test_every_custom_resource_shown_can_be_used(page):
    kinds = {kind.KIND: kind for kind in KINDS}
    for body in blocks(page, "yaml"):
        for document in yaml.safe_load_all(body):
            if isinstance(document, dict) and str(document.get("apiVersion", "")).startswith("optiinfra.io/"):
                document["metadata"] |= {"uid": "0", "resourceVersion": "1", "generation": 1}
                kinds[document["kind"]].parse(document)


def merged(values, given):
    """Lay values over the defaults, as Helm does before it asks the schema."""
    if not isinstance(values, dict) or not isinstance(given, dict):
        return given
    return values | {key: merged(values.get(key), value) for key, value in given.items()}


@pages
def test_all_values_shown_pass_the_chart_s_schema(page):
    schema = json.loads((ROOT / "charts/optiinfra/values.schema.json").read_text())
    defaults = yaml.safe_load((ROOT / "charts/optiinfra/values.yaml").read_text())
    for body in blocks(page, "yaml"):
        if body.lstrip().startswith("# values.yaml"):
            jsonschema.validate(merged(defaults, yaml.safe_load(body)), schema)


def test_the_argo_cd_entries_are_the_script_beside_them():
    folder = ROOT / "examples/argocd"
    script = (folder / "health.lua").read_text()
    entries = yaml.safe_load((folder / "argocd-cm.yaml").read_text())["data"]
    kinds = [kind.KIND for kind in KINDS if kind.KIND != "OptimizationCheckpoint"]
    assert entries == {f"resource.customizations.health.optiinfra.io_{kind}": script for kind in kinds}


# ---- what exists is on its page


def test_every_reason_is_on_the_troubleshooting_page():
    words = set(CODE.findall((DOCS / "troubleshooting.md").read_text()))
    assert not {str(reason) for reason in Reason} - words


def test_every_reason_is_said_by_somebody():
    sources = [path for path in (ROOT / "operator/optiinfra").rglob("*.py") if path.name != "reasons.py"]
    code = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r"(?<!\w)Reason\.([A-Z_]+)\b", code))
    assert not {str(reason) for reason in Reason if reason.name not in used}


def test_every_printer_column_is_explained():
    words = {word for row in rows((DOCS / "concepts.md").read_text()) for word in re.split(r",\s*", row[0])}
    columns = {column.name for kind in KINDS for column in kind.COLUMNS if kind.KIND != "OptimizationCheckpoint"}
    assert not columns - words


def test_every_page_is_in_the_table_of_contents():
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall((DOCS / "README.md").read_text())}
    linked |= {
        (DOCS / "design" / link.partition("#")[0]).resolve()
        for link in LINK.findall((DOCS / "design/README.md").read_text())
    }
    assert not {page for page in DOCS.rglob("*.md") if page.name != "README.md"} - linked


# ---- metrics


def documented(title):
    """Metrics of one section: name -> (kind, labels)."""
    table = rows(section(DOCS / "reference/metrics.md", title))[1:]
    return {row[0].strip("`"): (row[1], tuple(CODE.findall(row[2]))) for row in table}


def operator_metrics():
    found = {}
    for collector in vars(metrics).values():
        if hasattr(collector, "_labelnames"):
            suffix = "_total" if collector._type == "counter" else ""
            found[collector._name + suffix] = (collector._type, tuple(collector._labelnames))
    return found


def agent_metrics():
    snapshot, known = agent_snapshot, 1.0

    def reading(model, /, **texts):
        return model(**{field.name: texts.get(field.name, known) for field in dataclasses.fields(model)})

    clocks = reading(snapshot.ClockSeconds)
    identity = {"uuid": "GPU-1", "index": 0, "model": "m", "pci_bus_id": "p", "from_elsewhere": ()}
    events = {"xid_errors": ((79, 1),), "clock_event_seconds": clocks}
    gpu = reading(snapshot.GpuReading, **identity, **events, mig_enabled=False)
    report = snapshot.SourceReport(state=snapshot.SourceState.OK, reason="", time=1.0, duration_s=0.1)
    full = snapshot.Snapshot(
        time=1.0,
        node="n",
        agent=snapshot.AgentIdentity(id="a", version="1", started=0.0),
        sources=dict.fromkeys(snapshot.SourceName, report),
        cpu=reading(snapshot.CpuReading),
        memory=reading(snapshot.MemoryReading),
        pressure=reading(snapshot.PressureReading),
        network=reading(snapshot.NetworkReading),
        disks=reading(snapshot.DiskReading),
        numa=snapshot.NumaReading((reading(snapshot.NumaNode, number=0),)),
        driver_version="1",
        gpus=(gpu,),
        mig_devices=(reading(snapshot.MigReading, uuid="MIG-1", gpu_uuid="GPU-1", profile="1g.10gb", gpu_instance=1),),
        attribution=snapshot.Attribution(
            by=snapshot.AttributionSource.KUBELET,
            allocations=(snapshot.Allocation("GPU-1", "n", "p", "c", shared=False, resource="r", mig_uuid="MIG-1"),),
            allocatable={"r": 1},
        ),
        sharing=(snapshot.Sharing("GPU-1", snapshot.SharedBy.MPS, replicas=2, mps_processes=1),),
        gpu_users=(reading(snapshot.GpuUser, gpu_index=0, pod_uid="u", container="c"),),
        containers=(),
        named_containers=(),
        privilege=snapshot.Privilege(tier=1, missing={}),
        usage=reading(snapshot.OwnUsage),
    )
    published = SimpleNamespace(
        snapshot=full,
        collected=0.0,
        passes=1,
        probes=1,
        succeeded=dict.fromkeys(snapshot.SourceName, 0.0),
        nvml_code=0,
    )
    page, _ = Exposition(
        collection=SimpleNamespace(published=published),
        registration=SimpleNamespace(state=SimpleNamespace(wanted=True, registered=True)),
        traffic=SimpleNamespace(answered=SimpleNamespace(requests=1, seconds=0.1)),
    ).page("")
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        sample = family.samples[0]
        if not sample.name.startswith("process_"):
            kind = "info" if sample.name.endswith("_info") else family.type
            found[sample.name] = (kind, tuple(sample.labels))
    return found


def sorted_labels(table):
    return {name: (kind, sorted(labels)) for name, (kind, labels) in table.items()}


def test_the_operator_s_metrics_are_documented_as_they_are():
    assert sorted_labels(documented("Operator")) == sorted_labels(operator_metrics())


def test_the_agent_s_metrics_are_documented_as_they_are():
    assert sorted_labels(documented("Agent")) == sorted_labels(agent_metrics())


@pages
def test_every_metric_named_exists(page):
    known = {*operator_metrics(), *agent_metrics(), *PACKAGES, SIMULATED}
    text = re.sub(r"(operator|tests)/[\w./]+|optiinfra[\w.]*\.py", "", page.read_text())
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(text) if name != "optiinfra_"}
    assert not named - known


# ---- HTTP


def operator_routes():
    """(method, path) -> whether a token is needed."""
    found = {}
    for router in (health.router, agents.router, optimize.router, patches.router, savings.router):
        for route in router.routes:
            needs = any(part.call.__name__ == "authenticated" for part in route.dependant.dependencies)
            found |= {(method, route.path): needs for method in route.methods}
    app = create_app(operator=SimpleNamespace(), reviewer=None, forwarder=None)
    plain = [route for route in app.routes if getattr(route, "methods", None)]
    return found | {("GET", route.path): False for route in plain}


def test_every_path_of_the_operator_is_documented_with_its_access():
    text = section(DOCS / "reference/http.md", "Operator, port 8080")
    said = {}
    for row in rows(text)[1:]:
        for call in CODE.findall(row[0]):
            method, path = call.split(" ")
            said[method, path] = row[1] == "token"
    for call in CODE.findall(text):
        if re.fullmatch(r"GET /api/v1/health\S*", call):
            said["GET", call.split(" ")[1]] = False
    assert said == operator_routes()


def test_every_path_of_the_external_metrics_api_is_documented():
    def never(*_):
        raise AssertionError("not called")

    app = ExternalMetrics(decisions=never, permit=never, headers=SimpleNamespace()).application()
    paths = {resource.canonical for resource in app.router.resources()}
    table = rows(section(DOCS / "reference/http.md", "Operator, port 8443: external metrics"))[1:]
    assert {CODE.findall(row[0])[0].removeprefix("GET ") for row in table} == paths


def test_every_page_of_the_agent_is_documented():
    served = Application(
        collection=SimpleNamespace(follow=lambda _: None),
        registration=SimpleNamespace(),
        token=None,
        settings=SimpleNamespace(dcgm_names=False),
        traffic=SimpleNamespace(),
    )._pages
    table = rows(section(DOCS / "reference/http.md", "Agent, port 8003"))[1:]
    assert {CODE.findall(row[0])[0] for row in table} == set(served)


# ---- commands


def command(name):
    module, _, function = COMMANDS[name].target.partition(":")
    return getattr(importlib.import_module(module), function)


def test_every_command_is_documented_with_options_that_exist():
    table = rows(section(DOCS / "reference/commands.md", "optiinfra"))[1:]
    said = {CODE.findall(row[0])[0].removeprefix("optiinfra "): row[1] for row in table}
    assert set(said) == set(COMMANDS)
    for name, text in said.items():
        options = {option for parameter in command(name).params for option in parameter.opts}
        assert not {word.split(" ")[0] for word in CODE.findall(text) if word.startswith("--")} - options


def test_every_command_of_the_simulator_is_documented():
    table = rows(section(DOCS / "reference/commands.md", "optiinfra-sim"))[1:]
    said = {CODE.findall(row[0])[0].split(" ")[1] for row in table}
    assert isinstance(simulator, click.Group)
    assert said == set(simulator.commands)


@pages
def test_every_command_named_exists(page):
    code = "\n".join([*blocks(page, ""), *CODE.findall(prose(page))])
    for program, known in (("optiinfra", {*COMMANDS}), ("optiinfra-sim", {*simulator.commands})):
        named = re.findall(rf"(?:^(?:\$ )?|bin/|-- |\] ){program} ([a-z]+)\b", code, re.MULTILINE)
        assert not set(named) - known


# ---- quoting the demonstration


RULE = "─" * 8
PRINTED = f"before\n{RULE} first {RULE}\none  \n{RULE} second {RULE}\ntwo\n{RULE} third {RULE}\nthree\n"


def test_chosen_sections_are_quoted_as_printed_and_replace_the_old_ones():
    quoted = readme.excerpt(PRINTED, titles=("third", "first"))
    assert quoted == "── first ──\none\n\n── third ──\nthree"
    once = readme.inserted(f"above\n{readme.BEGIN}\n{readme.END}\nbelow\n", "old")
    page = readme.inserted(once, quoted)
    assert page.startswith("above\n")
    assert page.endswith("\nbelow\n")
    assert quoted in page
    assert "old" not in page


@pytest.mark.parametrize("line", ["\x1b[1mbold", "log in /home/{}/x".format("me")])
def test_output_that_must_not_be_quoted_is_refused(line):
    with pytest.raises(ValueError, match="the output holds"):
        readme.excerpt(f"{RULE} first {RULE}\n{line}\n", titles=("first",))


@pytest.mark.parametrize("output", ["nothing", "", f"{RULE} other {RULE}"])
def test_a_section_that_is_not_there_is_said(output):
    with pytest.raises(ValueError, match="--section"):
        readme.excerpt(output, titles=("first",))
