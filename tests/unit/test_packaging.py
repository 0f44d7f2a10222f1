"""What is shipped beside the code: the Dockerfile, the licence, the changelog, the reference of settings."""

import hashlib
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hack import settings_reference
from optiinfra.settings import OperatorSettings
from optiinfra_agent.settings import describe

ROOT = Path(__file__).parents[2]
TARGETS = ("operator", "agent")


def stages():
    """Map each stage of the Dockerfile to its instructions, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found, current = {}, []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            wanted = "${RUNTIME}" if name in TARGETS else "${BASE}"
            assert base == wanted, "every stage has the base that the builder of the image chose"
            current = found.setdefault(name, [])
        else:
            current.append((word, rest))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_runs_its_command_as_nobody(target):
    instructions = dict(stages()[target])
    scripts = {entry.name for entry in distribution("optiinfra").entry_points}
    (command,) = re.findall(r'^\["([a-z-]+)"\]$', instructions["ENTRYPOINT"])
    assert command == {"operator": "optiinfra", "agent": "optiinfra-agent"}[target]
    assert command in scripts
    assert instructions["USER"] == "65532:65532"


@pytest.mark.parametrize("target", TARGETS)
def test_the_result_gets_the_finished_environment_and_nothing_else(target):
    instructions = stages()[target]
    assert [rest for word, rest in instructions if word == "COPY"] == [
        f"--from={target}-builder /opt/optiinfra /opt/optiinfra"
    ]
    assert "RUN" not in {word for word, _ in instructions}
    assert "title" in dict(instructions)["LABEL"]
    assert "licenses" in dict(instructions)["LABEL"]


def test_packages_come_by_hash_and_nothing_is_compiled():
    installs = [
        command
        for instructions in stages().values()
        for word, rest in instructions
        if word == "RUN"
        for command in rest.split("&&")
        if " install " in command
    ]
    assert len(installs) == 5
    for command in installs:
        assert "--require-hashes --only-binary :all:" in command or "--no-deps --no-index /wheel/" in command, command


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_has_its_own_lock_file(target):
    copies = [rest for word, rest in stages()[f"{target}-builder"] if word == "COPY"]
    assert f"requirements/{target}.lock /requirements.lock" in copies
    lock = (ROOT / "requirements" / f"{target}.lock").read_text()
    requirements = re.findall(r"^[a-z0-9._-]+==\S+.*\\\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)+", lock, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE)), "a requirement without a hash"


def test_the_build_tools_are_those_of_the_lock_file(tmp_path):
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    (program,) = re.findall(r'RUN (?:--mount=\S+ +)*python -c "([^"]+)" > build.lock', text)
    lock = (ROOT / "requirements" / "all.lock").read_text()
    (tmp_path / "all.lock").write_text(lock)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    got = set(re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE))
    needed, waiting = set(), ["hatchling"]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    assert got == needed
    assert done.stdout.count("--hash=sha256:") >= len(needed)


def test_the_context_of_the_build_holds_what_is_copied_and_no_more():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    admitted = [line[1:] for line in lines if line.startswith("!")]
    copied = {
        source
        for instructions in stages().values()
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {source for source in copied if not any(fnmatch(source, pattern) for pattern in admitted)} == set()
    assert {pattern for pattern in admitted if not any(fnmatch(source, pattern) for source in copied)} == set()


def test_the_licence_is_the_unchanged_apache_licence():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_data_of_others_is_named_in_the_notice():
    notice = (ROOT / "NOTICE").read_text()
    for path in (ROOT / "operator" / "optiinfra_sim" / "traces").glob("*.gz"):
        assert str(path.relative_to(ROOT)) in notice


def test_every_fragment_of_the_changelog_has_a_type_that_is_known():
    known = re.compile(r"[+a-z0-9][a-z0-9-]*\.(feature|bugfix|doc|removal|misc)(\.\d+)?\.md")
    fragments = [path.name for path in (ROOT / "changelog.d").iterdir() if not path.name.startswith(".")]
    assert [name for name in fragments if not known.fullmatch(name)] == []


def test_the_reference_of_settings_is_current():
    assert settings_reference.PAGE.read_text() == settings_reference.page()


def test_the_reference_of_settings_names_each_one_with_its_bounds():
    page = settings_reference.page()
    for name in OperatorSettings.model_fields:
        assert f"| `OPTIINFRA_{name.upper()}` |" in page
    for variable in re.findall(r"^  ([A-Z_]+)", describe(), re.MULTILINE):
        assert f"| `{variable}` |" in page
    assert "| `OPTIINFRA_HTTP_PORT` | `8080` | whole number, >= 0, <= 65535 |" in page
