"""A client of KEDA's external-scaler protocol as protobuf's own compiler makes it of KEDA's published file."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

PROTO = Path(__file__).with_name("data") / "keda" / "externalscaler.proto"


def generate(folder: Path) -> SimpleNamespace:
    """Generate into a folder and import: `messages`, and the class `Stub`."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO.parent}", PROTO.name]
    command += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run(command, check=True, timeout=60)
    sys.path.insert(0, str(folder))
    try:
        messages = importlib.import_module("externalscaler_pb2")
        stubs = importlib.import_module("externalscaler_pb2_grpc")
    finally:
        sys.path.remove(str(folder))
    return SimpleNamespace(messages=messages, Stub=stubs.ExternalScalerStub)
