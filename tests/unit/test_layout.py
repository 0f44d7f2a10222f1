"""The rules of the source tree that no other tool checks."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("operator/", "hack/", "bench/")
LONGEST = 500
MACHINE_PATH = re.compile(rb"(?<![\w.$}])/(?:work|root|home/\w+|tmp/\w+)/\w")


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [Path(name.decode()) for name in listed.split(b"\0") if name]
    return [path for path in paths if (ROOT / path).is_file() and (not suffixes or path.suffix in suffixes)]


def modules() -> list[Path]:
    return [path for path in tracked(".py") if path.as_posix().startswith(SOURCES)]


def test_the_source_root_is_not_a_package():
    # It would shadow the standard library's operator module in every Python started beside it.
    assert not (ROOT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_module_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert docstring, f"{path} has no docstring"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_module_is_too_long(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= LONGEST, f"{path} has {lines} lines: split it"


def test_no_tracked_file_names_a_path_of_one_machine():
    this = Path(__file__).resolve().relative_to(ROOT)
    found = [
        f"{path}: {match[0].decode(errors='replace')}"
        for path in tracked()
        if path != this and (match := MACHINE_PATH.search((ROOT / path).read_bytes()))
    ]
    assert not found


def test_every_go_module_is_locked():
    for module in (ROOT / "hack" / "go").glob("*/go.mod"):
        assert module.with_name("go.sum").stat().st_size > 0
