"""Building the stand-in for libcuda: see cuda_stub.c for what it can do."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda_stub.c")


def build(folder: Path) -> Path:
    """Compile the library into a folder, for LD_LIBRARY_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1"), str(SOURCE)], check=True, timeout=120)
    return folder
