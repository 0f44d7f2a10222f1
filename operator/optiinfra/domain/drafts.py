"""A verdict before its evidence is put together, and the parts that the rules with and without a queue share."""

from typing import NamedTuple

from optiinfra.domain.clues import HEAT_COUNTS, POWER_COUNTS, Clues, CpuState, GpuState, at, at_least, known, share
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown


class Draft(NamedTuple):
    """A verdict before its evidence is put together."""

    bottleneck: Bottleneck
    sure: float
    reason: str
    message: str


def unknown(reason: str, message: str) -> Draft:
    """Return the verdict that there is none."""
    return Draft(Bottleneck.UNKNOWN, 0.0, reason, message)


def starved(clues: Clues, before: str) -> Draft | None:
    """Say Host where GPUs wait although there is work, unless the host is known to be free."""
    before = before[:1].upper() + before[1:]
    saturated = clues.cpu is CpuState.SATURATED
    if clues.gpu is GpuState.LOW and (saturated or clues.page_process_busy):
        text = f"{before}the GPUs wait for the host ({gpus(clues)}; {host(clues)})."
        return Draft(Bottleneck.HOST, 0.85 if saturated else 0.65, "CPUStarvation", text)
    stalls = clues.host_stalls
    if stalls is not None and clues.gpu is GpuState.LOW:
        return Draft(
            Bottleneck.HOST, 0.75, stalls[0], f"{before}the GPUs wait for the host ({gpus(clues)}; {stalls[1]})."
        )
    if clues.gpu is GpuState.LOW and clues.cpu is CpuState.UNMEASURED:
        text = f"{before}the GPUs wait for somebody ({gpus(clues)}); nobody measures the host's CPU, the likeliest."
        return Draft(Bottleneck.HOST, 0.5, "GPUsWait", text)
    if clues.gpu is GpuState.UNMEASURED and saturated:
        text = f"{before}{host(clues)}. GPUs that are not busy would confirm it, and nobody measures them."
        return Draft(Bottleneck.HOST, 0.55, "CPUSaturated", text)
    if stalls is not None and clues.gpu is GpuState.UNMEASURED:
        text = f"{before}{stalls[1]}. GPUs that are not busy would confirm it, and nobody measures them."
        return Draft(Bottleneck.HOST, 0.5, stalls[0], text)
    return None


def compute(clues: Clues, sure: float, text: str) -> Draft:
    """Say Compute, and whether prefill or decode is what takes the time."""
    prefill = clues.prompt_heavy
    if clues.steps_saturate:
        # Decoding is slow too where prompts take the steps.
        prefill = True
    elif clues.first_token_late != clues.tokens_slow:
        prefill = clues.first_token_late
    tensor, memory = clues.surroundings.gpu_tensor_active, clues.surroundings.gpu_dram_active
    if not isinstance(tensor, Unknown) and not isinstance(memory, Unknown) and abs(tensor - memory) >= 0.2:
        agrees = (tensor > memory) == prefill
        sure = min(0.95, sure + 0.05) if agrees else sure - 0.1
    reason, what = ("PrefillBound", "prompts take the time") if prefill else ("DecodeBound", "decoding takes the time")
    return Draft(Bottleneck.COMPUTE, sure, reason, f"{text[:1].upper()}{text[1:]}; {what}{held_down(clues)}.")


def held_down(clues: Clues) -> str:
    """Say that clocks are held down, and where: more replicas help against that, but a cool GPU is cheaper."""
    around = clues.surroundings
    if at_least(around.gpu_heat_throttled, HEAT_COUNTS):
        where = at(around, "gpu_heat_throttled")
        return f"; heat holds clocks down in {share(around.gpu_heat_throttled)} of the time{where}"
    if at_least(around.gpu_clock_throttled, POWER_COUNTS):
        where = at(around, "gpu_clock_throttled")
        return f"; a limit on power holds clocks down in {share(around.gpu_clock_throttled)} of the time{where}"
    return ""


def gpus(clues: Clues) -> str:
    """Write what was measured of the GPUs."""
    around = clues.surroundings
    named = (
        ("multiprocessors", around.gpu_sm_active),
        ("tensor pipes", around.gpu_tensor_active),
        ("memory", around.gpu_dram_active),
        ("utilisation", around.gpu_utilization),
    )
    return ", ".join(f"{name} {value:.0%}" for name, value in named if not isinstance(value, Unknown))


def host(clues: Clues) -> str:
    """Write what was measured of the host's CPU."""
    around = clues.surroundings
    named = (
        ("container CPU", "container_cpu", around.container_cpu),
        ("throttled", "cpu_throttled", around.cpu_throttled),
        ("CPU pressure", "cpu_pressure", around.cpu_pressure),
        ("node CPU", "node_cpu", around.node_cpu),
    )
    found = [(name, field, value) for name, field, value in named if not isinstance(value, Unknown)]
    # One place is enough for a sentence, that of the worst; the evidence has each.
    worst = max(found, key=lambda one: one[2], default=None)
    parts = []
    for one in found:
        name, field, value = one
        parts.append(f"{name} {value:.0%}{at(around, field) if one is worst else ''}")
    if clues.page_process_busy:
        cores = known(clues.signals.process_cpu_cores)
        parts.append(f"the process that takes requests in uses {cores:.2g} cores")
    return ", ".join(parts)


def span_of(seconds: float) -> str:
    """Write a span of time for people."""
    return f"{seconds:.0f} s" if seconds < 120.0 else f"{seconds / 60:.0f} min"


def sentence(parts: list[str]) -> str:
    """Write parts as one sentence."""
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."
