"""What is fed with noise, and what has to hold then, whoever makes it (Hypothesis in the tests, atheris by hand).

Each target takes bytes and returns; an exception of another kind than it declares, or a broken promise, is a finding.
The promises are those that the rest of the agent builds on: numbers within bounds, never NaN, never a name that would
end a line of a metrics page.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from optiinfra_agent import (
    cgroups,
    cpu,
    disks,
    headers,
    kubelet_metrics,
    memory,
    network,
    numa,
    own_usage,
    podresources,
)
from optiinfra_agent import pressure as stalls
from optiinfra_agent.errors import SettingsError, SourceFailedError, WireError
from optiinfra_agent.settings_file import parse_settings
from optiinfra_agent.snapshot import Unknown


def _number(value: float | Unknown) -> None:
    assert isinstance(value, Unknown) or (math.isfinite(value) and value >= 0)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def wire(data: bytes) -> None:
    """Messages of the kubelet: decoded, or refused as a whole."""
    for decode in (podresources.decode_list, podresources.decode_get, podresources.decode_allocatable):
        try:
            found = decode(data)
        except WireError:
            continue
        pods = found if isinstance(found, tuple) else (found,)
        assert len(pods) <= podresources.MAX_PODS


def header_block(data: bytes) -> None:
    """Header blocks of HTTP/2: decoded, or refused."""
    try:
        found = headers.decode_headers(data)
    except WireError:
        return
    assert sum(len(name) + len(value) for name, value in found) <= 64 * headers.BLOCK_LIMIT


def cgroup(data: bytes) -> None:
    """Files of cgroups, and the names of groups."""
    text = _text(data)
    _number(cgroups.parse_number(text))
    _number(cgroups.parse_keyed(text, "usage_usec"))
    owner = cgroups.container_of(text)
    assert owner is None or (len(owner[0]) in {32, 36} and len(owner[1]) == cgroups.ID_LENGTH)
    try:
        assert all(path.startswith("/") for path in own_usage.parse_groups(text).values())
    except SourceFailedError:
        return


def pressure(data: bytes) -> None:
    """Files of pressure stall information, of the node and of a container."""
    _number(stalls.parse_stalled(_text(data)))
    try:
        found = stalls.parse_pressure(_text(data))
    except SourceFailedError:
        return
    assert all(0 <= ratio <= 1 for ratio in found.values())


def kernel_files(data: bytes) -> None:
    """The other files of the kernel."""
    text = _text(data)
    parsers: tuple[Callable[[str], object], ...] = (
        memory.parse_memory,
        disks.parse_disks,
        network.parse_network,
        numa.parse_numbers,
        cpu.parse_load,
    )
    for parse in parsers:
        try:
            parse(text)
        except SourceFailedError:
            continue


def resource_metrics(data: bytes) -> None:
    """The kubelet's page of what containers use."""
    try:
        found = kubelet_metrics.parse_resource_metrics(_text(data))
    except SourceFailedError:
        return
    for one in found:
        assert "\n" not in one.namespace + one.pod + one.name
        _number(one.cpu_seconds_total)
        _number(one.working_set_bytes)


def settings_file(data: bytes) -> None:
    """A file of settings."""
    said = ""
    try:
        found = parse_settings(_text(data), path=Path("/agent.env"), known={"A", "B"})
    except SettingsError as error:
        found, said = {}, str(error)
    assert len(said.splitlines()) <= 1
    assert found.keys() <= {"A", "B"}


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "wire": wire,
    "header_block": header_block,
    "cgroup": cgroup,
    "pressure": pressure,
    "kernel_files": kernel_files,
    "resource_metrics": resource_metrics,
    "settings_file": settings_file,
}
SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "wire": (b"\x0a\x1e\x0a\x01p\x12\x01n\x1a\x16\x0a\x01c\x12\x11\x0a\x0envidia.com/gpu\x12\x01G",),
    "header_block": (bytes.fromhex("20880f108b1d75d0620d263d4c4d6564"),),
    "cgroup": (
        b"usage_usec 2500000\nuser_usec 1\n",
        b"max\n",
        b"0::/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/" + b"a" * 64 + b"\n",
    ),
    "pressure": (b"some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",),
    "kernel_files": (
        b"MemTotal: 16000 kB\nMemAvailable: 10000 kB\n",
        b"259 0 nvme0n1 100 0 2000 50 200 0 4000 80 0 1500 130\n",
        b"x\ny\n ens5: 1000 10 1 2 0 0 0 0 3000 30 4 8 0 0 0 0\n",
        b"0-1,4\n",
        b"3.20 2.00 1.00 2/300 4567\n",
    ),
    "resource_metrics": (
        b'container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.5 1795273232521\n',
        b'container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 6.2e+09\n',
    ),
    "settings_file": (b"# x\nA=1\nB = 'two'\n",),
}
"""What is really read, for noise to begin with."""
