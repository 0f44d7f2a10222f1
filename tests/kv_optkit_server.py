"""The real server of the PyPI package kv-optkit, for tests: installed without its dependencies, run on loopback.

What its server imports is in our own environment already, so that the package alone (160 KB) is enough; it is kept in
the cache folder of the tests' binaries. Where no installer or no registry is there, its tests are skipped and say so:
the recorded answers are tested everywhere.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hack.binaries.find import cache_folder

PACKAGE = "kv-optkit"
VERSION = "0.5.3"
INSTALL_S = 60.0
START_S = 30.0


class NotInstalledError(Exception):
    """The package is not here and cannot be had."""


def installed() -> Path:
    """Return the folder with the package, installing it when it is missing. Raises NotInstalledError."""
    folder = cache_folder(os.environ) / f"{PACKAGE}-{VERSION}"
    if (folder / "kvopt" / "server" / "main.py").exists():
        return folder
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
    bootstrap = Path(__file__).parents[1] / ".cache" / "bootstrap" / "bin" / "uv"
    uv = shutil.which("uv") or (str(bootstrap) if bootstrap.exists() else None)
    pip = shutil.which("pip") or shutil.which("pip3")
    if uv is not None:
        command = [uv, "pip", "install", "--python", sys.executable]
    elif pip is not None:
        command = [pip, "install", "--disable-pip-version-check"]
    else:
        raise NotInstalledError("neither uv nor pip is here")
    command += ["--quiet", "--no-deps", "--target", str(scratch), f"{PACKAGE}=={VERSION}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S)
        with contextlib.suppress(OSError):  # another run was faster
            scratch.rename(folder)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalledError(f"{PACKAGE} {VERSION} cannot be installed: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


@contextlib.contextmanager
def running(scratch: Path) -> Iterator[str]:
    """Run the server and yield its address. Raises NotInstalledError."""
    package = installed()
    configuration = scratch / "config.yaml"
    configuration.write_text("adapter: {type: sim, hbm_capacity_gb: 80.0, bytes_per_token: 131072}\n")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "KVOPT_CONFIG": str(configuration), "PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "uvicorn", "kvopt.server.main:app", "--port", str(port), "--log-level", "warning"]
    with (scratch / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=scratch, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(server, address, scratch / "server.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AssertionError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the server does not answer: {log.read_text()[-2000:]}")
