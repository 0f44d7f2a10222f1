"""Figures go from tests into docs/reliability.md as they were counted."""

import json
import re

import pytest

from hack import reliability, soak


def line(topic, what, value, unit=""):
    return json.dumps({"topic": topic, "what": what, "value": value, "unit": unit, "test": "t"})


def test_figures_become_one_table_a_topic_and_the_last_value_counts():
    lines = [line("writes", "by us", 3), line("faults", "dropped events", 12_500), line("writes", "by us", 1, "writes")]
    text = reliability.section(lines, where="Here.")
    assert text.startswith(reliability.BEGIN)
    assert text.endswith(reliability.END)
    assert text.index("### Faults") < text.index("### Writes")
    assert "| dropped events | 12,500 |" in text
    assert "| by us | 1 writes |" in text
    assert "| by us | 3" not in text


def test_the_page_is_rewritten_between_its_markers_only(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{reliability.BEGIN}\nold\n{reliability.END}\nafter\n")
    monkeypatch.setattr(reliability, "DOCUMENT", page)
    file = tmp_path / "figures.jsonl"
    file.write_text(line("faults", "resets", 7) + "\n")
    assert reliability.main([str(file)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| resets | 7 |" in text


def test_a_file_of_many_runs_is_refused(tmp_path):
    file = tmp_path / "figures.jsonl"
    file.write_bytes(b" " * (4 * 2**20 + 1))
    with pytest.raises(SystemExit):
        reliability.main([str(file)])


def test_the_parts_of_several_runs_become_one_page(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text(f"{reliability.BEGIN}\n{reliability.END}\n")
    monkeypatch.setattr(reliability, "DOCUMENT", page)
    for part, failed in (("churn", 0), ("faults", 2)):
        head = {"part": part, "day": "2026-11-22", "minutes": 50, "short": part == "churn", "passed": 1}
        lines = [json.dumps(head | {"failed": failed, "code": "v1-2-gabc"}), line(part, "counted", 7)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    assert reliability.main([str(tmp_path)]) == 0
    text = page.read_text()
    assert "| churn (short) | 2026-11-22 | `v1-2-gabc` | 50 | 1 | 0 |" in text
    assert "| faults | 2026-11-22 | `v1-2-gabc` | 50 | 1 | 2 |" in text
    assert text.count("| counted | 7 |") == 2


def test_a_part_keeps_its_figures_and_how_it_ended(tmp_path, monkeypatch):
    test = tmp_path / "test_part.py"
    test.write_text(
        "import json, os, pytest\n"
        "pytestmark = pytest.mark."
        "soak\n"
        "def test_good():\n"
        "    row = {'topic': 't', 'what': 'w', 'value': 3, 'unit': '', 'test': 'x'}\n"
        "    open(os.environ['OPTIINFRA_FIGURES'], 'a').write(json.dumps(row) + '\\n')\n"
        "def test_bad():\n"
        "    assert os.environ.get('SHORT') != '1'\n"
    )
    part = soak.Part("of this test", 1, (str(test),), short={"SHORT": "1"})
    monkeypatch.setattr(soak, "PARTS", {"one": part})
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(soak, "ROOT", tmp_path)
    quiet = ("-q", "-p", "no:cacheprovider")
    assert not soak.run("one", folder=tmp_path, short=True, extra=quiet)
    head, row = map(json.loads, (tmp_path / "one.jsonl").read_text().splitlines())
    assert (head["passed"], head["failed"], head["short"]) == (1, 1, True)
    assert row["value"] == 3


def test_every_long_test_belongs_to_a_part():
    """A long test in a file that no part names would never run."""
    mark = "pytest.mark." + "soak"
    marked = {
        str(path.relative_to(soak.ROOT)) for path in soak.ROOT.rglob("tests/**/test_*.py") if mark in path.read_text()
    }
    named = [path.partition("::") for part in soak.parts().values() if part.marks == "soak" for path in part.paths]
    run = {path for path, _, _ in named}
    for path in {path for path, _, test in named if test}:
        whole = any(other == path and not test for other, _, test in named)
        written = set(re.findall(r"^def (test_\w+)", (soak.ROOT / path).read_text(), re.MULTILINE))
        by_name = {test.partition("[")[0] for other, _, test in named if other == path}
        assert whole or written == by_name, f"{path}: by name, but not all"
    assert run - marked == set(), "a file of that name is gone, or has no long test any more"
    assert marked - run <= {"tests/unit/test_reliability.py"}
