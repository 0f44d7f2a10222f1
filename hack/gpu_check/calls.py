"""What each call of the driver costs that the agent makes, in microseconds, on an idle GPU."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from optiinfra_agent.gpu_fields import FIELDS

REPEATS: Final = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """One call."""

    name: str
    microseconds: float | None
    """Median; None where the driver refuses it."""
    refused: str = ""


def costs(nvml: Any, handle: Any) -> list[Cost]:
    """Time every call."""
    fields = [(one.number, one.scope) for one in FIELDS]
    calls: dict[str, tuple[Any, ...]] = {
        "nvmlDeviceGetUtilizationRates": (),
        "nvmlDeviceGetPowerUsage": (),
        "nvmlDeviceGetEnforcedPowerLimit": (),
        "nvmlDeviceGetTotalEnergyConsumption": (),
        "nvmlDeviceGetTemperatureV": (nvml.NVML_TEMPERATURE_GPU,),
        "nvmlDeviceGetClockInfo": (nvml.NVML_CLOCK_SM,),
        "nvmlDeviceGetBAR1MemoryInfo": (),
        "nvmlDeviceGetCurrentClocksEventReasons": (),
        "nvmlDeviceGetFieldValues": (fields,),
        "nvmlDeviceGetMigMode": (),
        "nvmlDeviceGetSamples": (nvml.NVML_GPU_UTILIZATION_SAMPLES, 0),
        "nvmlDeviceGetComputeRunningProcesses_v3": (),
        "nvmlDeviceGetMPSComputeRunningProcesses_v3": (),
        "nvmlDeviceGetProcessUtilization": (0,),
        "nvmlDeviceGetComputeMode": (),
    }
    found = [
        _cost(nvml, name, lambda name=name, more=more: getattr(nvml, name)(handle, *more))
        for name, more in calls.items()
    ]
    found.append(
        _cost(
            nvml,
            "nvmlDeviceGetMemoryInfo_v2",
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        )
    )
    try:
        sample = nvml.nvmlGpmSampleAlloc()
    except nvml.NVMLError as error:
        found.append(Cost("nvmlGpmSampleGet", None, str(error)))
    else:
        found.append(_cost(nvml, "nvmlGpmSampleGet", lambda: nvml.nvmlGpmSampleGet(handle, sample)))
        nvml.nvmlGpmSampleFree(sample)
    return found


def _cost(nvml: Any, name: str, call: Any) -> Cost:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        try:
            call()
        except nvml.NVMLError as error:
            # The binding takes an empty list of busy processes for an error, under the code of success.
            if error.value:
                return Cost(name, None, str(error))
        times.append((time.perf_counter() - began) * 1e6)
    return Cost(name, median(times))
