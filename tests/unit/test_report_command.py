"""The report as people and programs get it: every format, hostile names, patches on disk, exit codes."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import kubernetes_validate
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from optiinfra.api.crd import KINDS, crd_of
from optiinfra.cli import report as command
from optiinfra.cli import (
    report_charts,
    report_csv,
    report_files,
    report_html,
    report_json,
    report_markdown,
    report_prices,
    report_table,
    report_words,
)
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.history import ScalerHistory
from optiinfra.domain.report.making import Made, Told, compose, prepare
from optiinfra.domain.report.patches import scaler_patch
from optiinfra.domain.report.report import Curves, Patch
from optiinfra.domain.report.scaling import play
from tests.unit.domain import report_fleet as fleet
from tests.unit.test_keda_examples import definitions as keda_definitions

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "report.schema.json"
HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\x1b[31mred\x1b]8;;http://evil.example\x07",
    "a|b\n# heading [x](javascript:alert(1))",
    "\u202egnirts",
    "\"'`onload=alert(1)",
)


def made(*, names="", days=1.1):
    """Nothing is played: what is proposed without it is enough here, and soon there."""
    history = fleet.fleet(days, names=names)
    prepared = prepare(history, fleet.options())
    told = Told(
        made=fleet.END,
        server="http://prometheus.example:9090",
        queries={one.key: "sum(work)" for one in history.models},
    )
    return compose(prepared, (), told)


@pytest.fixture(scope="module")
def whole():
    """With a replay of the newest hours, so that every part of the report is there."""
    history = fleet.fleet(1.1)
    prepared = prepare(history, fleet.options())
    queries = {one.key: "sum(work)" for one in history.models}
    return compose(
        prepared,
        play(prepared.cases),
        Told(made=fleet.END, server="http://prometheus.example:9090", samples=9, queries=queries),
    )


@pytest.fixture(scope="module", params=HOSTILE, ids=range(len(HOSTILE)))
def hostile(request):
    return made(names=request.param).report


class Page(HTMLParser):
    """Every tag, attribute and link of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.links = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append(name)
            if name == "id":
                self.ids.add(value)
            if name in {"href", "src"}:
                self.links.append(value)


def table(report):
    buffer = io.StringIO()
    report_table.write(report, Console(file=buffer, width=160))
    return buffer.getvalue()


# ---- formats


def test_the_document_keeps_to_the_committed_schema(whole):
    schema = json.loads(SCHEMA.read_text())
    assert schema == report_json.schema(), "run python -m optiinfra.cli.report_json > docs/reference/report.schema.json"
    document = json.loads(report_json.text(whole.report))
    jsonschema.validate(document, schema)
    assert document["version"] == "optiinfra.io/report/v1"


def test_the_table_says_sum_worse_models_and_method(whole):
    text = table(whole.report)
    for part in ("a month could be saved", "what would have got worse", "models, dearest first", "Savings count each"):
        assert part in text
    assert "inference/crowded" in text


def test_the_csv_has_a_row_for_everything(whole):
    rows = list(csv.DictReader(io.StringIO(report_csv.text(whole.report))))
    assert {row["record"] for row in rows} >= {"total", "proposal", "model", "worse"}
    total = next(row for row in rows if row["record"] == "total")
    assert float(total["saved_in_window"]) == pytest.approx(whole.report.total.saved)
    assert sum(float(row["saved_in_window"]) for row in rows if row["record"] == "proposal") == pytest.approx(
        whole.report.total.saved
    )


def test_the_page_is_one_file_without_scripts_and_its_numbers_link_to_queries(whole):
    text = report_html.text(whole.report)
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & set(page.tags)
    assert "default-src 'none'" in text
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert inside
    assert set(inside) <= page.ids
    assert all(link.startswith(("#", "http://prometheus.example/")) for link in page.links)
    assert "@media print" in text
    assert page.tags.count("svg") >= 5
    assert text.index('class="sum"') < text.index('id="what"') < text.index('id="models"') < text.index('id="queries"')


def test_the_markdown_links_each_question(whole):
    text = report_markdown.text(whole.report)
    assert text.startswith("# What this fleet costs")
    assert "(http://prometheus.example/graph?g0.expr=vllm.work)" in text


def test_unknown_money_is_said_with_its_remedy_in_every_format():
    nothing = made().report
    unknown = Unknown(UnknownReason.NOT_CONFIGURED, "no price: give --gpu-hour")
    total = replace(nothing.total, cost=unknown, saved=unknown, per_month=unknown, share=unknown)
    report = replace(nothing, total=total)
    for text in (table(report), report_html.text(report), report_markdown.text(report), report_csv.text(report)):
        assert "gpu" in text.lower()
        assert "nan" not in re.findall(r"\bnan\b", text.lower())
    assert json.loads(report_json.text(report))["total"]["saved"]["detail"] == "no price: give --gpu-hour"


# ---- hostile names


def test_no_name_moves_or_colours_a_terminal(hostile):
    shown = table(hostile)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_no_name_becomes_markup_of_a_page(hostile):
    page = Page(report_html.text(hostile))
    assert not {"script", "img", "iframe"} & set(page.tags)
    assert not any(name.startswith("on") for name in page.attributes)
    assert not any(link.lower().startswith("javascript") for link in page.links)


def test_no_name_is_a_formula_of_a_spreadsheet(hostile):
    for row in csv.reader(io.StringIO(report_csv.text(hostile))):
        for cell in row:
            assert not cell.startswith(("=", "@", "\t", "\r"))
            assert re.fullmatch(r"-?[\d.e+-]+", cell) or not cell.startswith(("+", "-"))


@pytest.mark.parametrize("words", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_would_run_gets_an_apostrophe(words):
    assert report_csv.cell(words).startswith("'") or not report_csv.cell(words).startswith(("=", "+", "-", "@"))


def test_no_name_makes_a_link_or_heading_in_markdown(hostile):
    text = report_markdown.text(hostile)
    assert "](javascript" not in text
    assert not re.search(r"(?<!\\)<(?!a id=|/a>)", text)
    assert all(line.startswith(("# What", "## ")) for line in text.splitlines() if line.startswith("#"))


def test_no_name_leaves_the_comment_of_a_patch_or_the_folder():
    for name in HOSTILE:
        for patch in made(names=name).patches:
            assert re.fullmatch(r"[a-z0-9-]{1,120}\.yaml", patch.file)
            assert list(yaml.safe_load_all(patch.text)) is not None
            assert "\x1b" not in patch.text


# ---- charts


def test_a_curve_with_holes_is_drawn_in_pieces_and_told_in_words():
    times = tuple(float(at) for at in range(5))
    curves = Curves(times, (1.0, None, 2.0, 3.0, None), (None,) * 5, (0.5,) * 5)
    drawn = report_charts.replicas(curves, name="a<b", number=1)
    assert drawn.count("<polyline") == 3
    assert "a&lt;b" in drawn
    assert "<desc" in drawn
    assert report_charts.replicas(Curves(times, (None,) * 5, (None,) * 5, (None,) * 5), name="x", number=1) == ""


# ---- words


def test_words_hold_no_hidden_letters():
    assert report_words.clean("a\u200bb\x00c\u2028d\u202e") == "a b c d"
    assert report_words.money(1234.5, "USD") == "1,234 USD"
    assert report_words.money(0.5, "USD") == "0.50 USD"
    assert report_words.share(0.0012) == "0.12%"


# ---- patches


def deployed(name="engine"):
    """A Deployment that a patch is for."""
    container = {"name": name, "image": "engine:1", "args": ["--model=m"], "resources": {"requests": {"cpu": "8"}}}
    labels = {"app": "x"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": "inference"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def merged(base, patch):
    """What `kubectl patch` makes of it: maps merge, containers by their names."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {key: merged(base.get(key), patch.get(key, base.get(key))) for key in {**base, **patch}}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(one, dict) for one in (*base, *patch)):
        by_name = {one["name"]: one for one in base}
        assert {one["name"] for one in patch} <= set(by_name), "a container that is not there"
        return [merged(one, next((new for new in patch if new["name"] == name), one)) for name, one in by_name.items()]
    return patch


def appended(base, operations):
    """What a JSON patch makes of it that only adds to the ends of lists, as those for arguments do."""
    for one in operations:
        assert one["op"] == "add"
        *path, last = one["path"].strip("/").split("/")
        assert last == "-"
        place = base
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        place.append(one["value"])
    return base


def test_every_patch_makes_something_that_the_api_server_takes(whole):
    ours = {kind.__name__: crd_of(kind) for kind in KINDS}
    keda = keda_definitions()
    seen = set()
    for patch in whole.patches:
        document = yaml.safe_load(patch.text)
        if isinstance(document, list):
            seen.add("JSON patch")
            kubernetes_validate.validate(appended(deployed(), document), "1.36", strict=True)
            continue
        kind = document["kind"]
        seen.add(kind)
        if kind in ours:
            found = ours[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            jsonschema.validate(document["spec"], found["properties"]["spec"])
        elif kind in keda:
            jsonschema.validate(document, keda[kind])
        elif kind == "Deployment":
            kubernetes_validate.validate(merged(deployed(), document), "1.36", strict=True)
        else:
            kubernetes_validate.validate(document, "1.36", strict=True)
    assert seen >= {"ResourceOptimization", "ScaledObject", "Deployment", "JSON patch"}


def test_sizes_for_a_deployment_are_a_patch_that_the_api_server_takes(whole):
    texts = [patch.text for patch in whole.patches if "-requests-" in patch.file]
    base = deployed()
    for text in texts:
        document = yaml.safe_load(text)
        name = document["spec"]["template"]["spec"]["containers"][0]["name"]
        kubernetes_validate.validate(merged(deployed(name), document), "1.36", strict=True)
    with pytest.raises(AssertionError, match="not there"):
        merged(base, {"spec": {"template": {"spec": {"containers": [{"name": "other"}]}}}})


def test_patches_are_written_and_written_again(whole, tmp_path):
    first = report_files.write_patches(tmp_path / "out", whole.patches)
    again = report_files.write_patches(tmp_path / "out", whole.patches)
    assert first == again
    assert {path.name for path in first} == {patch.file for patch in whole.patches}
    assert all(path.read_text().startswith(report_files.MARK) for path in first)


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_foreign_file_stands_and_nothing_is_written(tmp_path, kind):
    patches = [Patch("a.yaml", "a: 1\n", "x"), Patch("b.yaml", "b: 1\n", "y")]
    mine = tmp_path / "b.yaml"
    if kind == "file":
        mine.write_text("mine: true\n")
    elif kind == "link":
        mine.symlink_to(tmp_path / "nowhere")
    else:
        mine.mkdir()
    with pytest.raises(report_files.ReportFileError, match="was not written by this command"):
        report_files.write_patches(tmp_path, patches)
    assert [path.name for path in tmp_path.iterdir()] == ["b.yaml"]


# ---- prices


def options(**changed):
    given = {"gpu_hours": (), "table": None, "currency": "USD", "reserved": (), "list_prices": True}
    return report_prices.prices_of(**(given | changed))


def test_prices_are_read_by_model_and_for_all():
    found = options(gpu_hours=("2.5", "H100=2.49"), reserved=("A100=16",))
    assert found.flat.gpu_hour == 2.5
    assert found.flat.gpu_hour_of("NVIDIA H100 80GB HBM3") == 2.49
    assert found.reserved == {"A100": 16.0}


def test_list_prices_are_not_used_in_another_currency():
    assert not options(currency="EUR").book.list_prices


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpu-hour", "two"], "H100=2.49"),
        (["--gpu-hour", "0"], "H100=2.49"),
        (["--gpu-hour", "1", "--gpu-hour", "2"], "twice"),
        (["--reserved-gpus", "-1"], "H100=16"),
        (["--currency", "dollars"], "USD"),
        (["--header", "secret"], "NAME: VALUE"),
        (["--label", "nonsense"], "label matcher"),
        (["--no-cache", "--cache-dir", "x"], "one of them"),
        (["--since", "1m"], "--step"),
    ],
)
def test_wrong_use_is_told_in_one_line_before_anything_is_asked(arguments, word):
    ran = CliRunner().invoke(command.report, ["--prometheus", "http://127.0.0.1:9", *arguments])
    assert ran.exit_code in {1, 2}
    last = ran.output.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert word in last
    assert "secret" not in last


def test_a_server_that_is_away_is_told_in_one_line():
    ran = CliRunner().invoke(command.report, ["--prometheus", "http://127.0.0.1:9", "--no-cache"])
    assert ran.exit_code == 1
    assert len(ran.output.strip().splitlines()) == 1
    assert ran.output.startswith("Error: ")


# ---- the gate


@pytest.fixture
def run(monkeypatch, whole):
    def ran(*arguments, report=None):
        shown = whole if report is None else Made(report, ())
        monkeypatch.setattr(command, "_made", lambda *_, **__: shown)
        return CliRunner().invoke(command.report, ["--prometheus", "http://127.0.0.1:9", "--no-cache", *arguments])

    return ran


def test_a_gate_ends_with_its_own_code(run, whole):
    month = whole.report.total.per_month
    assert run("--fail-above", f"{month + 1:.2f}").exit_code == 0
    above = run("--fail-above", f"{month - 1:.2f}")
    assert above.exit_code == command.ABOVE
    assert "--fail-above" in above.output


def test_a_gate_that_cannot_be_told_has_another_code(run, whole):
    report = whole.report
    total = replace(report.total, unpriced_gpu_hours=1.0)
    ran = run("--fail-above", "1000000000", report=replace(report, total=total))
    assert ran.exit_code == command.UNPRICED
    assert "--gpu-hour" in ran.output


@pytest.mark.parametrize("form", ["table", "json", "csv", "html", "markdown"])
def test_every_format_goes_to_a_file_as_to_the_terminal(run, tmp_path, form):
    target = tmp_path / "report"
    shown = run("--format", form)
    written = run("--format", form, "--output", str(target))
    assert shown.exit_code == written.exit_code == 0
    assert target.read_text(encoding="utf-8").strip() == shown.stdout.strip().replace("\r\n", "\n") or form == "csv"


def test_a_report_that_cannot_be_written_is_told_before_the_server_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_made", lambda *_, **__: pytest.fail("minutes of work, for nothing"))
    target = tmp_path / "nowhere" / "report.html"
    ran = CliRunner().invoke(command.report, ["--prometheus", "http://127.0.0.1:9", "--output", str(target)])
    assert ran.exit_code == 1
    assert ran.stderr.strip().splitlines() == [
        f"Error: --output: there is no folder {target.parent}: create it, or name a file in another one"
    ]


def test_patches_are_counted_on_the_error_stream(run, tmp_path, whole):
    ran = run("--patches", str(tmp_path / "patches"), "--format", "json")
    assert json.loads(ran.stdout)["version"]
    assert f"{len(whole.patches)} patches written" in ran.stderr


def test_an_hpa_of_their_own_gets_a_patch_that_the_api_server_would_take(whole):
    times = fleet.times_of(0.1)
    scaler = ScalerHistory("chat-hpa", 1.0, 12.0, np.full(len(times), 8.0))
    one = fleet.model(times, "chat", busy=np.full(len(times), 1.0), replicas=8, scaler=scaler)
    (case,) = prepare(fleet.alone(times, one), fleet.options()).models
    replay = next(each.replay for each in whole.report.models if each.workload == "chat")
    text = scaler_patch(case, replay, target=1650.0, query="sum(work)", server="http://prometheus.example:9090")
    document = yaml.safe_load(text)
    kubernetes_validate.validate(document, "1.36", strict=True)
    assert document["metadata"] == {"name": "chat-hpa", "namespace": "inference"}
    assert document["spec"]["metrics"][0]["external"]["target"]["averageValue"] == "1650"
