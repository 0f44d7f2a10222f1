"""Finds or makes each binary, in one order for all, and says what it did.

The cache comes before PATH: it holds the pinned versions, and a machine's own tools change. A file lock
makes parallel runs wait for the first; the steps of one run happen in a scratch folder inside the cache,
so that the last one is a rename on one file system.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hack.binaries import build
from hack.binaries.catalogue import CATALOGUE, KUBERNETES, Binary, BinaryError, Version, parse_version
from hack.binaries.download import DownloadError, Downloads

LOCK_SECONDS = 5400.0

Say = Callable[[str], None]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that keeps everything between runs."""
    chosen = environment.get("OPTIINFRA_CACHE")
    base = Path(chosen) if chosen else Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "optiinfra" / "kube" / f"v{KUBERNETES}"


def bin_folder() -> Path:
    """Return the folder of the cache that holds the binaries."""
    return cache_folder(os.environ) / "bin"


def _print(text: str) -> None:
    print(text, flush=True)


def ensure(names: Iterable[str] | None = None, *, say: Say = _print) -> dict[str, Path]:
    """Return the path of each named binary, getting those that are missing; by default all but those on demand."""
    always = (name for name, binary in CATALOGUE.items() if not binary.on_demand)
    wanted = [CATALOGUE[name] for name in (names if names is not None else always)]
    folder = bin_folder()
    found = {binary.name: find(binary, os.environ, folder, say=say) for binary in wanted}
    missing = [binary for binary in wanted if found[binary.name] is None]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / "lock", say=say):
            for binary in list(missing):
                # Another run may have brought it while this one waited.
                if (folder / binary.name).exists() and _recorded(binary, folder) == binary.recipe:
                    missing.remove(binary)
            _get(missing, folder, say=say)
        found |= {binary.name: folder / binary.name for binary in wanted if found[binary.name] is None}
    return {name: path for name, path in found.items() if path is not None}


def find(binary: Binary, environment: Mapping[str, str], cache: Path, *, say: Say) -> Path | None:
    """Look for an existing binary. OPTIINFRA_KUBE_BIN is believed; other places must show the version."""
    chosen = environment.get("OPTIINFRA_KUBE_BIN")
    if chosen and os.access(Path(chosen) / binary.name, os.X_OK):
        return Path(chosen).resolve() / binary.name
    assets = environment.get("KUBEBUILDER_ASSETS")
    if assets and _is_usable(binary, Path(assets).resolve() / binary.name, say=say):
        return Path(assets).resolve() / binary.name
    if _recorded(binary, cache) == binary.recipe and os.access(cache / binary.name, os.X_OK):
        return cache / binary.name
    for name in (binary.name, *binary.other_names):
        on_path = shutil.which(name, path=environment.get("PATH"))
        if on_path and _is_usable(binary, Path(on_path), say=say):
            return Path(on_path)
    return None


def _is_usable(binary: Binary, path: Path, *, say: Say) -> bool:
    if not binary.version_arguments or not os.access(path, os.X_OK):
        return False
    version = version_of(binary, path)
    if version is not None and binary.accepts(version):
        return True
    shown = ".".join(str(part) for part in version) if version else "of an unusable version"
    say(f"  {binary.name}: {path} is {shown}, {binary.version} is needed: not used")
    return False


def version_of(binary: Binary, path: Path) -> Version | None:
    """Ask a program for its version; None when it does not answer with one."""
    try:
        answer = subprocess.run(
            [path, *binary.version_arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(answer.stdout or answer.stderr)


def _get(missing: list[Binary], folder: Path, *, say: Say) -> None:
    if not missing:
        return
    say(f"getting {', '.join(binary.name for binary in missing)} into {folder}")
    downloads = Downloads(missing)
    for host, reason in downloads.unreachable.items():
        say(f"  {host} cannot be reached ({reason}): building from Go modules instead")
    go: Path | None = None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="scratch-") as scratch:
        for binary in missing:
            started = time.monotonic()
            target = Path(scratch) / binary.name
            how = "downloaded" if _download(binary, target, downloads, say=say) else "built"
            if how == "built":
                go = go or build.find_go(folder.parent)
                say(f"  {binary.name} {binary.version}: building (the first one takes minutes) ...")
                build.build(binary, go=go, target=target)
            version = version_of(binary, target) if binary.version_arguments else parse_version(binary.version)
            if version is None or not binary.accepts(version):
                raise BinaryError(f"{binary.name} was {how} but answers with version {version}: not kept")
            _keep(binary, target, folder)
            say(f"  {binary.name} {binary.version}: {how} in {time.monotonic() - started:.0f} s")


def _download(binary: Binary, target: Path, downloads: Downloads, *, say: Say) -> bool:
    if not downloads.offers(binary):
        return False
    try:
        downloads.fetch(binary, target)
    except DownloadError as error:
        say(f"  {binary.name}: not downloaded, {error}")
        return False
    return True


def _record_of(binary: Binary, folder: Path) -> Path:
    return folder.parent / "recipes" / binary.name


def _recorded(binary: Binary, folder: Path) -> str | None:
    try:
        return _record_of(binary, folder).read_text()
    except FileNotFoundError:
        return None


def _keep(binary: Binary, made: Path, folder: Path) -> None:
    """Move a finished binary into the cache. The record goes first and comes last: no record, no binary."""
    record = _record_of(binary, folder)
    record.parent.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    made.replace(folder / binary.name)
    fresh = made.with_name(f"{binary.name}.recipe")
    fresh.write_text(binary.recipe)
    fresh.replace(record)


@contextlib.contextmanager
def _locked(path: Path, *, say: Say) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    waiting = False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("another run is getting the binaries: waiting for it")
                    waiting = True
                if time.monotonic() > deadline:
                    raise BinaryError(f"{path}: still locked after {LOCK_SECONDS:.0f} s") from None
                time.sleep(0.5)
        yield
