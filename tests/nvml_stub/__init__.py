"""Building and steering the stand-in for libnvidia-ml: see nvml_stub.c for what it can do."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")


def build(folder: Path, *, old_driver: bool = False) -> Path:
    """Compile the library into a folder, for LD_LIBRARY_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-DOLD_DRIVER"] if old_driver else []
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, *flags, "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)], check=True, timeout=120)
    return folder


class Stub:
    """One configured driver: its rules can be changed while an agent uses it."""

    def __init__(self, *, library: Path, folder: Path) -> None:
        self._library = library
        self._rules = folder / "nvml-rules"
        self._calls = folder / "nvml-calls"
        self.rules()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to load it."""
        return {
            "LD_LIBRARY_PATH": str(self._library),
            "NVML_STUB_CONFIG": str(self._rules),
            "NVML_STUB_CALLS": str(self._calls),
        }

    def rules(self, *lines: str) -> None:
        """Replace all rules, at once: a call sees the old ones or the new ones."""
        fresh = self._rules.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._rules)

    def calls(self, function: str) -> int:
        """Return how often a function was called."""
        if not self._calls.exists():
            return 0
        return sum(line.split()[0] == function for line in self._calls.read_text().splitlines())
