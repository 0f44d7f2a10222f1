"""The report as a critical reader goes through it: the same numbers everywhere, each with its queries, plain words."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner
from rich.console import Console

from optiinfra.cli import report as command
from optiinfra.cli import report_csv, report_html, report_json, report_markdown, report_table, report_words
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.report.ending import ended
from optiinfra.domain.report.history import Asked, FleetHistory, Lack, Missing
from optiinfra.domain.report.making import Told, compose, prepare
from optiinfra.domain.report.scaling import play
from tests.unit.domain import report_fleet as fleet
from tests.unit.prometheus_stub import prometheus

SERVER = "http://prometheus.example:9090"
FORMATS = ("table", "json", "csv", "html", "markdown")


@pytest.fixture(scope="module")
def report():
    history = fleet.fleet(1.1)
    models = tuple(
        replace(one, sources={**one.sources, "available": "state.available.Deployment"}) for one in history.models
    )
    told = (Asked(name, f"sum({name})", "", 1, 1) for name in ("state.available.Deployment", "state.capacity"))
    history = replace(history, models=models, asked=(*history.asked, *told))
    prepared = prepare(history, fleet.options())
    queries = {one.key: "sum(work)" for one in history.models}
    return compose(
        prepared, play(prepared.cases), Told(made=fleet.END, server=SERVER, samples=9, queries=queries)
    ).report


@pytest.fixture(scope="module")
def nothing():
    """A server that answers and has neither engines nor GPUs."""
    gap = Missing(Lack.NOTHING, "the fleet", "no engine and no GPU is measured", "Scrape vLLM and dcgm-exporter")
    times = fleet.times_of(1.0)
    history = FleetHistory(times, fleet.STEP_S, (), (), (), (), (gap,))
    return compose(prepare(history, fleet.options()), (), Told(made=fleet.END, server=SERVER)).report


def table(report, *, width=report_table.WIDTH):
    buffer = io.StringIO()
    report_table.write(report, Console(file=buffer, width=width))
    return buffer.getvalue()


def texts(report):
    return {
        "table": table(report),
        "json": report_json.text(report),
        "csv": report_csv.text(report),
        "html": report_html.text(report),
        "markdown": report_markdown.text(report),
    }


class Cells(HTMLParser):
    """Cells and headings of a page, with their text and whether it leads somewhere."""

    def __init__(self, text):
        super().__init__()
        self.cells, self._open, self._links = [], None, 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "td":
            self._open, self._links = "", 0
        elif tag == "a" and dict(attrs).get("href"):
            self._links += 1

    def handle_data(self, data):
        if self._open is not None:
            self._open += data

    def handle_endtag(self, tag):
        if tag == "td" and self._open is not None:
            self.cells.append((self._open.strip(), self._links))
            self._open = None


# ---- the same everywhere


def test_the_sum_is_the_same_in_every_format(report):
    total, said = report.total, texts(report)
    month = report_words.money(total.per_month, report.currency)
    for form in ("table", "html", "markdown"):
        assert month in said[form].replace("\\", ""), form
        assert report_words.money(total.saved, report.currency) in said[form].replace("\\", ""), form
    assert json.loads(said["json"])["total"]["per_month"] == total.per_month
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert float(rows[0]["saved_per_month"]) == pytest.approx(total.per_month)
    proposals = [row for row in rows if row["record"] == "proposal"]
    assert sum(float(row["counted_gpu_hours"]) for row in proposals) == pytest.approx(total.gpu_hours)
    assert sum(one.saved.counted_gpu_hours for one in report.opportunities) == pytest.approx(total.gpu_hours)
    assert total.saved <= total.cost


def test_what_gets_worse_is_in_every_format_as_plainly_as_what_is_saved(report):
    assert report.worse
    for form, said in texts(report).items():
        for one in report.worse:
            words = one.message.split(". ")[0][:40]
            assert words in " ".join(said.replace("\\", "").replace("│", " ").split()) or form == "table", (form, words)
    text = table(report)
    assert text.index("what to do, by money") < text.index("what would have got worse") < text.index("models, dearest")


def test_which_days_were_replayed_is_in_every_format_for_people(report):
    for form in ("table", "html", "markdown"):
        said = " ".join(texts(report)[form].replace("\\", "").split())
        assert "the newest 0.2 of 1.1 days" in said, form
    assert report.replayed == "the newest 0.2 of 1.1 days"


# ---- one or the other


def test_a_plain_autoscaler_beside_the_scaler_is_one_or_the_other(report):
    plain = [one for one in report.opportunities if one.type is RecommendationType.HPA_TARGET]
    ours = {one.subject for one in report.opportunities if one.type is RecommendationType.REPLICAS}
    beside = [one for one in plain if one.subject in ours]
    assert beside
    for one in beside:
        assert one.saved.counted_gpu_hours == 0.0
        assert one.saved.gpu_hours > 0.0
        assert one.title.endswith("instead")
        assert "counted above" in table(report)


# ---- each number and its queries


def test_every_number_of_proposals_models_and_replays_leads_to_its_queries(report):
    page = Cells(report_html.text(replace(report, questions=())))
    counts = re.compile(r"^[\d.,]+( of [\d.,]+)?( (USD|GPU-hours|GPUs|replicas|billion|million))?$|^[\d.]+% / [\d.]+%$")
    numbers = [(text, links) for text, links in page.cells if counts.match(text) and not text.endswith("%")]
    assert len(numbers) > 40
    assert [text for text, links in numbers if not links] == []


def test_every_model_of_the_markdown_names_its_queries(report):
    text = report_markdown.text(report)
    rows = [line for line in text.splitlines() if line.startswith("| inference") and "%" in line]
    models = [row for row in rows if row.count("|") == len(report_table.COLUMNS) + 2]
    assert len(models) == len(report.models)
    assert all("](#q-" in row for row in models)


# ---- plain words


def test_the_table_fits_a_hundred_columns_and_loses_nothing(report):
    text = table(report)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(re.sub(r"[│┃┡┏┗└┌├┤┬┴┼━─╇╈┳┻]", " ", text).split())
    for one in report.opportunities[:3]:
        assert report_words.money(one.saved.per_month, report.currency) in words
    assert "…" not in text
    rows = words[words.index("models, dearest first") :]
    for one in report.models:
        assert report_words.money(one.cost.value, report.currency) in rows
        for limit in one.limits[:2]:
            assert f"{limit.bottleneck} {report_words.share(float(limit.share))}" in rows


@pytest.mark.parametrize("form", ["table", "html", "markdown"])
def test_no_word_of_the_program_is_told_to_people(report, form):
    said = texts(report)[form]
    for word in ("StepTimes", "ListPrice", "NotMeasured", "None", "e+0", "nan", " ours", "Occupancy"):
        assert not re.search(rf"(?<![\w-]){re.escape(word.strip())}(?![\w-])", said), (form, word)


@pytest.mark.parametrize(("count", "words"), [(1, "For one model something"), (2, "For 2 models something")])
def test_one_is_not_many(report, count, words):
    said = report_words.caveats(replace(report, worse=(report.worse * 2)[:count]))
    assert any(line.startswith(words) for line in said)


# ---- nothing at the end


def test_a_past_that_ended_early_is_said_with_the_moment_to_ask_for():
    history = fleet.fleet(1.1)
    cut = len(history.times) - 3

    def without(values):
        return np.where(np.arange(len(values)) < cut, values, np.nan)

    models = tuple(replace(one, serving=without(one.serving)) for one in history.models)
    gpus = tuple(replace(one, present=one.present & (np.arange(len(one.present)) < cut)) for one in history.gpus)
    found = ended(replace(history, models=models, gpus=gpus))
    assert [one.code for one in found] == ["EndedEarly"]
    assert "after 2026-11-22 13:45 UTC" in found[0].why
    assert "--until 2026-11-22T13:45" in found[0].remedy
    assert ended(history) == ()
    assert ended(replace(history, models=models)) == (), "its GPUs are still measured"
    assert ended(FleetHistory(np.zeros(0), 0.0, (), (), (), (), ())) == ()


# ---- nothing there


def test_a_server_without_a_fleet_gives_one_clear_line_in_every_format(nothing):
    line = "Nothing was found: no engine and no GPU is measured. Scrape vLLM and dcgm-exporter."
    for form in ("table", "html", "markdown"):
        said = texts(nothing)[form].replace("\\", "")
        assert " ".join(line.split()) in " ".join(said.split()), form
        assert "a month could be saved" not in said
    assert len(table(nothing).splitlines()) <= 4
    assert json.loads(report_json.text(nothing))["gaps"][0]["code"] == "NothingFound"
    assert "no engine and no GPU is measured" in report_csv.text(nothing)


def test_an_empty_server_over_a_socket_is_told_in_one_line():
    with prometheus(fleet={(("__name__", "up"), ("job", "x")): lambda _: 1.0}) as stub:
        ran = CliRunner().invoke(command.report, ["--prometheus", stub.url, "--no-cache", "--since", "1d"])
    assert ran.exit_code == 0, ran.output
    first, *rest = ran.stdout.splitlines()
    assert first.startswith("Nothing was found: ")
    assert len(rest) <= 4
    assert "(1.0 days)" in ran.stdout


def test_a_gate_on_nothing_is_kept(nothing, monkeypatch):
    monkeypatch.setattr(command, "_made", lambda *_, **__: type("Made", (), {"report": nothing, "patches": ()})())
    ran = CliRunner().invoke(command.report, ["--prometheus", SERVER, "--no-cache", "--fail-above", "0"])
    assert ran.exit_code == 0


# ---- servers that are not what they should be


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 401, "text": "Unauthorized"}, "token"),
        ({"status": 403, "text": "forbidden"}, "403"),
        ({"status": 302, "headers": {"Location": "/login?next=x"}}, "redirects to /login"),
        ({"text": "<html><form action='/login'>Sign in</form></html>", "content_type": "text/html"}, "login page"),
        ({"text": "<!DOCTYPE html><title>Grafana</title>", "content_type": "text/html"}, "Grafana"),
        ({"status": 404, "text": "404 page not found"}, "404"),
        ({"status": 422, "text": '{"status":"error","errorType":"execution","error":"no org id"}'}, "no org id"),
    ],
)
def test_a_server_that_is_none_is_told_in_one_line(answer, words):
    with prometheus() as stub:
        stub.scripted = [web.Response(**answer) for _ in range(200)]
        ran = CliRunner().invoke(command.report, ["--prometheus", stub.url, "--no-cache", "--since", "1d"])
    assert ran.exit_code == 1
    (line,) = ran.output.strip().splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "Traceback" not in ran.output


def test_a_wrong_token_is_told_without_showing_it(tmp_path):
    token = tmp_path / "token"
    token.write_text("sesame")
    with prometheus(token="another") as stub:
        ran = CliRunner().invoke(
            command.report, ["--prometheus", stub.url, "--no-cache", "--token-file", str(token), "--since", "1d"]
        )
    assert ran.exit_code == 1
    (line,) = ran.output.strip().splitlines()
    assert "401" in line or "token" in line
    assert "sesame" not in line


@pytest.mark.parametrize("under", ["/prometheus", "/select/0/prometheus", "/api/prom"])
def test_a_server_below_a_path_is_asked_there_with_its_tenant(under):
    with prometheus(fleet={(("__name__", "up"),): lambda _: 1.0}, under=under) as stub:
        url = f"{stub.url}{under}"
        ran = CliRunner().invoke(
            command.report, ["--prometheus", url, "--no-cache", "--since", "1d", "--tenant", "team-a"]
        )
        asked = {one.get("X-Scope-OrgID") for one in stub.headers}
    assert ran.exit_code == 0, ran.output
    assert asked == {"team-a"}
    assert ran.stdout.startswith("Nothing was found")
