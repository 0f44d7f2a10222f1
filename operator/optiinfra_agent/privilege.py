"""How much this agent may see, in tiers, each with the reason why it is not there.

    tier  adds                                   yields
    0     nothing: the restricted profile        devices, CPU, memory and pressure of the node
    1     the kubelet's pod-resources directory  which container holds which GPU
    2     the host's PID namespace, or procfs    GPU processes told apart by pod
    3     CAP_SYS_ADMIN                          aggregates of MIG, profiling before Hopper where it is restricted

A tier is what is really there and not what was asked for: the first is judged by whether the kubelet answered in this
pass, the others by what the kernel says about this process. The number is the highest tier that is there together with
all below it; a tier that is there on its own is named too. Nothing here needs a privilege or asks for one.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from optiinfra_agent.errors import SourceError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Privilege, SourceReport, SourceState

ATTRIBUTION, PROCESSES, ADMINISTRATION = 1, 2, 3
_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO: the number of the first PID namespace is fixed in the kernel."""
_SYS_ADMIN = 21
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-fA-F]{1,16})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """What the kernel lets this process do: an empty reason means that it is there."""

    host_pids: str
    administration: str


def read_process(folder: Path = Path("/proc/self")) -> Process:
    """Return what this process may do, from its own procfs (never the mounted one of the host)."""
    try:
        namespace = str((folder / "ns" / "pid").readlink())
        pids = "" if namespace == _HOST_PID_NAMESPACE else "not in the host's PID namespace (hostPID)"
    except OSError as error:
        pids = f"the PID namespace is not known: {error.strerror}"
    try:
        found = _CAPABILITIES.search(read_text(folder / "status"))
        held = found is not None and bool(int(found[1], 16) >> _SYS_ADMIN & 1)
        administration = "" if held else "without CAP_SYS_ADMIN"
    except SourceError as error:
        administration = f"capabilities are not known: {error.reason}"
    return Process(host_pids=pids, administration=administration)


def of_procfs(process: Process, procfs: Path) -> Process:
    """Return what this process may do with that procfs: the host's, mounted elsewhere, shows its processes, too.

    The host's is known by its process 2, which is the kernel's and which no container has.
    """
    try:
        is_hosts = read_text(procfs / "2" / "comm").strip() == "kthreadd"
    except SourceError:
        is_hosts = False
    return replace(process, host_pids="") if is_hosts else process


def assess(process: Process, pod_resources: SourceReport) -> Privilege:
    """Return the tier that is there, and why the others are not."""
    is_ok = pod_resources.state is SourceState.OK
    reasons = {
        ATTRIBUTION: "" if is_ok else f"{pod_resources.state.value}: {pod_resources.reason}",
        PROCESSES: process.host_pids,
        ADMINISTRATION: process.administration,
    }
    tier = 0
    while tier < ADMINISTRATION and not reasons[tier + 1]:
        tier += 1
    return Privilege(tier=tier, missing={number: reason for number, reason in reasons.items() if reason})
