"""Figures go from tests into docs/reliability.md as they were counted."""

import json

import pytest

from hack import reliability


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
