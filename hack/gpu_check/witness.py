"""Who is asked about the GPU during a load: the agent, nvidia-smi, and NVML without the agent in between.

The agent is the real process, read over HTTP. NVML is asked once a second in this process, with the same binding and
none of the agent's code. nvidia-smi is run once a second where it is there; where it is not, its column stays empty.
"""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SMI_FIELDS = ("utilization.gpu", "memory.used", "power.draw", "temperature.gpu")
_TIMEOUT_S = 10.0


class WitnessError(Exception):
    """A witness that must speak does not."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One second."""

    at: float
    """Monotonic seconds."""
    agent: dict[str, Any]
    """The GPU's row of `/v1/gpus`."""
    agent_at: float
    """When the agent measured it, Unix seconds."""
    driver: dict[str, float]
    """NVML, base units; what it does not give is absent."""
    smi: dict[str, float]
    """nvidia-smi, in its units."""


@dataclass(slots=True)
class Witness:
    """Asks all of them about one GPU."""

    address: str
    """Of the agent: http://host:port."""
    uuid: str
    nvml: Any
    """The binding, initialised."""
    handle: Any
    sights: list[Sight] = field(default_factory=list)

    def look(self) -> Sight:
        """Ask all once."""
        document = gpus(self.address)
        row = next((gpu for gpu in document["gpus"] if gpu["uuid"] == self.uuid), None)
        if row is None:
            raise WitnessError(f"the agent does not show {self.uuid}")
        return Sight(time.monotonic(), row, document["time"], self._driver(), smi(self.uuid))

    def _driver(self) -> dict[str, float]:
        asked: dict[str, Callable[[], float]] = {
            "power_watts": lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1e3,
            "energy_joules": lambda: self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3,
            "utilization_ratio": lambda: self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu / 100.0,
            "memory_used_bytes": lambda: float(
                self.nvml.nvmlDeviceGetMemoryInfo(self.handle, version=self.nvml.nvmlMemory_v2).used
            ),
        }
        found: dict[str, float] = {}
        for name, ask in asked.items():
            try:
                found[name] = float(ask())
            except self.nvml.NVMLError:
                continue
        return found


def gpus(address: str) -> dict[str, Any]:
    """Return the agent's page about its GPUs."""
    try:
        # The address is the one this program gave to the agent.
        with urllib.request.urlopen(f"{address}/v1/gpus", timeout=_TIMEOUT_S) as answer:  # noqa: S310 - see above
            document: dict[str, Any] = json.load(answer)
            return document
    except (OSError, ValueError) as error:
        raise WitnessError(f"the agent at {address} does not answer: {error}") from error


def smi(uuid: str) -> dict[str, float]:
    """Return what nvidia-smi says of one GPU; nothing where it is not there."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    query = [command, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits", f"--id={uuid}"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise WitnessError(f"nvidia-smi failed: {done.stderr.strip() or done.stdout.strip()}")
    values = done.stdout.strip().split(",")
    found: dict[str, float] = {}
    for name, text in zip(SMI_FIELDS, values, strict=True):
        try:
            found[name] = float(text)
        except ValueError:
            continue  # "[N/A]"
    return found
