"""Starting and steering a stand-in for the kubelet's PodResources: see server.py for what it can do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")
SOCKET = "kubelet.sock"


def device(*ids: str, resource: str = "nvidia.com/gpu", numa: Iterable[int] = ()) -> dict[str, Any]:
    """Return devices of one resource."""
    return {"resource": resource, "ids": list(ids), "numa": list(numa)}


def claim(device: str, *, name: str = "claim", pool: str = "node-a", driver: str = "gpu.nvidia.com") -> dict[str, Any]:
    """Return one claimed device (DRA)."""
    return {"claim": name, "driver": driver, "pool": pool, "device": device}


def pod(name: str, *devices: dict[str, Any], namespace: str = "inference", container: str = "engine") -> dict[str, Any]:
    """Return a pod with one container that was given devices and claims."""
    return {
        "namespace": namespace,
        "name": name,
        "containers": [
            {
                "name": container,
                "devices": [one for one in devices if "ids" in one],
                "claims": [one for one in devices if "claim" in one],
            }
        ],
    }


class Kubelet:
    """A kubelet in a process of its own; what it answers, and how it fails, can be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pod-resources"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / "kubelet.json"
        self._calls = folder / "kubelet-calls"
        self._pods: list[dict[str, Any]] = []
        self._allocatable: list[dict[str, Any]] = []
        self._fault: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._write()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / SOCKET

    def serve(self, *pods: dict[str, Any], allocatable: Iterable[dict[str, Any]] = ()) -> None:
        """Answer with these pods and these devices from now on, without a fault."""
        self._pods, self._allocatable, self._fault = list(pods), list(allocatable), {}
        self._write()

    def fault(self, kind: str, **values: Any) -> None:
        """Fail in this way from now on; `ok` ends it."""
        self._fault = {} if kind == "ok" else {"kind": kind, **values}
        self._write()

    def _write(self) -> None:
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps({"pods": self._pods, "allocatable": self._allocatable, "fault": self._fault}))
        fresh.replace(self._state)

    def start(self) -> "Kubelet":
        """Start the process and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(SERVER), str(self.socket), str(self._state), str(self._calls)],
            env={"PATH": os.environ.get("PATH", "")},
        )
        end = time.monotonic() + 30
        while not self.socket.exists():
            assert self._process.poll() is None, "the stand-in for the kubelet has ended"
            assert time.monotonic() < end, "the stand-in for the kubelet does not listen"
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """End it as a crash does: the socket's file stays, and nobody listens on it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def stop(self) -> None:
        """End it, and take its socket away."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.socket.unlink(missing_ok=True)

    def calls(self, method: str) -> int:
        """Return how often a method was called."""
        if not self._calls.exists():
            return 0
        return self._calls.read_text().split().count(method)
