"""Bills of materials name every locked package; audits fail on vulnerabilities and never count silence as good."""

import json
import re

import pytest

from hack import supply_chain
from hack.supply_chain import SupplyChainError, read_audit

GOOD = {"name": "click", "version": "8.5.1", "vulns": []}
BAD = {"name": "h11", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.16"], "description": "x"}]}
HOPELESS = {"name": "old", "version": "1", "vulns": [{"id": "PYSEC-2", "fix_versions": [], "description": "x"}]}
UNASKED = {"name": "psutil", "skip_reason": "not found"}


def told(*packages):
    return read_audit(json.dumps({"dependencies": packages, "fixes": []}), image="agent")


def test_a_vulnerability_fails_and_says_where_it_is_fixed():
    audit = told(GOOD, BAD, HOPELESS)
    assert audit.failed(strict=False)
    assert audit.vulnerable == ("h11 0.1: PYSEC-1, fixed in 0.16", "old 1: PYSEC-2, fixed in no release")


def test_a_package_that_could_not_be_asked_about_is_named_and_fails_only_when_strict():
    audit = told(GOOD, UNASKED)
    assert audit.unasked == ("psutil (not found)",)
    assert not audit.failed(strict=False)
    assert audit.failed(strict=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dependencies": [{}]}', '{"dependencies": []}'])
def test_an_answer_that_says_nothing_is_an_error_and_no_pass(text):
    if text == '{"dependencies": [{}]}':
        text = json.dumps({"dependencies": [{"name": "x", "vulns": [{}]}]})
    with pytest.raises(SupplyChainError):
        read_audit(text, image="agent")


def test_the_check_fails_when_the_tool_does(monkeypatch, capsys):
    def broken(*_, **__):
        raise SupplyChainError("pip-audit ended with 3: no disk")

    monkeypatch.setattr(supply_chain, "_run", broken)
    assert supply_chain.main(["audit"]) == 2
    assert "no disk" in capsys.readouterr().err


def test_a_bill_of_materials_names_every_locked_package_with_its_hashes(tmp_path):
    path = supply_chain.sbom("agent", tmp_path)
    told = json.loads(path.read_text())
    locked = dict(
        re.findall(r"^([\w.-]+)==([^ ;]+)", (supply_chain.ROOT / "requirements/agent.lock").read_text(), re.MULTILINE)
    )
    assert {one["name"]: one["version"] for one in told["components"]} == locked
    assert all(one["externalReferences"][0]["hashes"] for one in told["components"])
    assert told["metadata"]["component"]["name"] == "optiinfra"
    assert path.read_bytes() == supply_chain.sbom("agent", tmp_path).read_bytes()
