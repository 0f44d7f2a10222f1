"""GPUs that are not there, given to a node as real ones are: a device plugin, a container runtime, a driver library.

Only the library's answers are made up; who gets which GPU is decided by the kubelet and told by its pod-resources
socket.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hack.cluster.errors import ApiError
from hack.node.configurations import GPU_CLASS
from hack.node.device_plugin import RESOURCE
from hack.node.sandbox import ROOT

RUNTIME = "gpu-runtime"
PLUGIN = "device-plugin"


class Node(Protocol):
    """What is needed of the node."""

    @property
    def settings_folder(self) -> Path:
        """Where configurations lie."""

    def start(self, name: str, *command: str) -> None:
        """Start a program in the node."""

    def request(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Ask the API server."""


def give(node: Node, uuids: Sequence[str], *, library: Path, rules: Path) -> None:
    """Give a node these GPUs; `library` is a libnvidia-ml.so.1, `rules` a folder that its containers see beside it."""
    settings = node.settings_folder / f"{RUNTIME}.json"
    settings.write_text(json.dumps({"library": str(library), "rules": str(rules)}), encoding="utf-8")
    program = node.settings_folder / RUNTIME
    words = [sys.executable, str(Path(__file__).with_name("gpu_runtime.py")), str(settings)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    try:
        node.request(
            "POST",
            "/apis/node.k8s.io/v1/runtimeclasses",
            {"metadata": {"name": GPU_CLASS}, "handler": GPU_CLASS},
        )
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
    node.start(PLUGIN, "/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "hack.node.device_plugin", *uuids)


def allocatable(node: Node, name: str) -> int:
    """Return how many GPUs the kubelet offers to pods."""
    status = node.request("GET", f"/api/v1/nodes/{name}")["status"]
    assert isinstance(status, dict)
    return int(status["allocatable"].get(RESOURCE, 0))
