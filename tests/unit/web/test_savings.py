"""The savings ledgers over HTTP: what is asked for is answered, tables can be summed, and no cell is a formula."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.api.ledger import cluster_ledger_fields, ledger_fields
from optiinfra.web.savings import ENTRIES, MOST_TABLE, TOTALS, disarmed
from tests.unit.domain.test_savings_ledger import OURS, lived, seen, target
from tests.unit.domain.test_savings_nodes import claim
from tests.unit.domain.test_savings_nodes import lived as nodes_lived
from tests.unit.domain.test_savings_nodes import seen as nodes_seen
from tests.unit.web.outside import Reviewer, View, document, serve

RO, CRO = "ResourceOptimization", "ClusterResourceOptimization"
PATH = "/api/v1/savings"


def ledger(name="vllm"):
    books = lived(
        seen(0, target(10, name=name)),
        seen(60, target(7, name=name, by=OURS)),
        seen(660, target(7, name=name)),
        seen(690, target(12, name=name)),
    )
    return ledger_fields(books).to_wire()


def nodes():
    return cluster_ledger_fields(
        nodes_lived(nodes_seen(0, 4), nodes_seen(60, 3, claim(8.0)), nodes_seen(360, 3, claim(8.0)))
    ).to_wire()


@pytest.fixture
def view() -> View:
    return View(
        documents=[
            document(CRO, "", "cluster", savings=nodes()),
            document(RO, "b", "y", savings=ledger()),
            document(RO, "a", "x", savings=ledger()),
            document(RO, "a", "without"),
        ]
    )


async def table(view, query="", **headers):
    async with serve(view) as client:
        answer = await client.get(f"{PATH}?format=csv{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def names(answer):
    return [item["metadata"]["name"] for item in answer.json()["items"]]


# JSON


async def test_the_ledgers_are_those_of_the_statuses(view):
    async with serve(view) as client:
        items = (await client.get(PATH)).json()["items"]
    assert [item["metadata"]["name"] for item in items] == ["x", "y", "cluster"]
    assert items[0]["savings"] == view.documents[2]["status"]["savings"]


async def test_filters_narrow(view):
    async with serve(view) as client:
        assert names(await client.get(f"{PATH}?namespace=a")) == ["x"]
        assert names(await client.get(f"{PATH}?kind={CRO}")) == ["cluster"]
        assert names(await client.get(f"{PATH}?namespace=b&name=y")) == ["y"]
        assert (await client.get(f"{PATH}?namespace=b&name=nobody")).status_code == 404
        (only,) = (await client.get(f"{PATH}?namespace=a&period=this-month")).json()["items"]
        assert "thisMonth" in only["savings"]
        assert "total" not in only["savings"]
        for bad in ("period=forever", "kind=Secret", "format=xml", "limit=0", "limit=100000", "table=cells"):
            assert (await client.get(f"{PATH}?{bad}")).status_code == 422, bad


async def test_pages_show_everything_once(view):
    async with serve(view) as client:
        found, after = [], ""
        for _ in range(10):
            answer = await client.get(f"{PATH}?limit=1{after}")
            found += names(answer)
            if "continue" not in answer.json():
                break
            after = f"&continue={answer.json()['continue']}"
        assert found == ["x", "y", "cluster"]
        wrong = await client.get(f"{PATH}?continue=%F0%9F%92%A9")
        assert wrong.status_code == 422
        assert "continue" in wrong.json()["detail"]


# rights


async def test_who_may_not_list_or_get_sees_nothing(view):
    nobody = Reviewer(refused={("list", "resourceoptimizations"), ("get", "resourceoptimizations")})
    async with serve(view, nobody) as client:
        for query in ("", "?format=csv", "?namespace=a&name=x", "?namespace=a&name=x&format=csv"):
            assert (await client.get(PATH + query)).status_code == 403, query
    people = Reviewer(refused={("list", "clusterresourceoptimizations")})
    async with serve(view, people) as client:
        assert names(await client.get(PATH)) == ["x", "y"]
        assert (await client.get(f"{PATH}?kind={CRO}&format=csv")).status_code == 403


async def test_a_right_in_one_namespace_is_asked_for_there(view):
    reviewer = Reviewer()
    async with serve(view, reviewer) as client:
        await client.get(f"{PATH}?namespace=a&name=x")
    asked = reviewer.authorized[-1]
    assert (asked["verb"], asked["resource"], asked["namespace"], asked["name"]) == (
        "get",
        "resourceoptimizations",
        "a",
        "x",
    )


# CSV


@pytest.mark.parametrize("ask", [{"query": "?format=csv"}, {"accept": "text/csv"}, {"accept": "text/csv, */*;q=0.1"}])
async def test_csv_by_format_or_accept(view, ask):
    async with serve(view) as client:
        answer = await client.get(PATH + ask.get("query", ""), headers={"Accept": ask.get("accept", "*/*")})
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    first, *_ = answer.text.split("\r\n")
    assert first == ",".join(TOTALS)
    assert "\n" not in answer.text.replace("\r\n", "")


async def test_json_wins_when_it_is_asked_for(view):
    async with serve(view) as client:
        answer = await client.get(f"{PATH}?format=json", headers={"Accept": "text/csv"})
    assert answer.json()["items"]


async def test_a_table_says_what_the_status_says_and_can_be_summed(view):
    for period, key in (("this-month", "thisMonth"), ("total", "total")):
        rows = await table(view, f"&period={period}")
        assert {row["kind"] for row in rows} == {RO}, "the cluster's totals hold the objects' already"
        assert {row["period"] for row in rows} == {period}
        lines = [line for item in view.documents[1:3] for line in item["status"]["savings"][key]["lines"]]
        for column, field in (("gpu_hours_freed", "freed"), ("gpu_hours_added", "added")):
            told = sum(float(row[column]) for row in rows)
            assert told == pytest.approx(sum(line[field]["gpuHours"] for line in lines), abs=1e-5)
        assert all(float(row[name]) >= 0.0 for row in rows for name in row if name.endswith(("_freed", "_added")))
    assert await table(view, "&period=last-month") == []


async def test_entries_one_a_row_with_before_and_after(view):
    rows = await table(view, "&table=entries&namespace=a")
    assert list(rows[0]) == list(ENTRIES)
    shown = {(row["cause"], row["before"], row["after"], row["direction"], row["ended"] != "") for row in rows}
    assert ("Action", "10", "7", "freed", True) in shown
    assert ("Others", "7", "12", "added", False) in shown
    assert {row["claimed"] for row in rows if row["cause"] == "Action"} == {"true"}


async def test_the_cluster_s_table_is_asked_for_by_kind(view):
    (row,) = await table(view, f"&kind={CRO}&table=entries")
    assert (row["axis"], row["before"], row["after"], row["amount"]) == ("Nodes", "4", "3", "1")
    assert float(row["money_freed"]) == pytest.approx(40.0 * 300 / 3600, abs=1e-5)
    total = sum(float(row["money_freed"]) for row in await table(view, f"&kind={CRO}"))
    assert total == pytest.approx(40.0 * 300 / 3600, abs=1e-5)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
async def test_no_cell_is_a_formula(name):
    document_ = document(RO, "a", "x", savings=ledger(name))
    rows = await table(View(documents=[document_]), "&table=entries")
    assert {row["target"] for row in rows} == {f"'{name}"}


@given(st.text())
def test_every_text_comes_out_of_a_table_harmless_and_whole(text):
    cell = disarmed(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.removeprefix("'") == text or cell == text
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerow([cell, "end"])
    (row,) = csv.reader(io.StringIO(written.getvalue(), newline=""))
    assert row == [cell, "end"]


async def test_a_table_is_whole_or_refused(monkeypatch, view):
    monkeypatch.setattr("optiinfra.web.savings.MOST_TABLE", 1)
    async with serve(view) as client:
        answer = await client.get(f"{PATH}?format=csv")
    assert answer.status_code == 422
    assert "namespace" in answer.json()["detail"]
    assert MOST_TABLE > 1
