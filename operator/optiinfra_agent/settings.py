"""The agent's settings: environment variables read once, at the start, into one frozen object.

Each setting carries its variable, its default and a paragraph (meaning, unit, danger) that `--help` prints: one
place, so that the text cannot drift from the code. A bad value ends the start with one line that names the variable
and the remedy. Plain parsing instead of pydantic-settings: measured, pydantic alone adds 9 MiB to this process.

The port is `OPTIINFRA_AGENT_LISTEN_PORT` and not `OPTIINFRA_AGENT_PORT`: Kubernetes sets the latter to
`tcp://10.0.0.1:8003` in every pod of a namespace with a Service called `optiinfra-agent`.
"""

import re
import socket
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from optiinfra_agent.errors import SettingsError
from optiinfra_agent.settings_file import read_settings_file
from optiinfra_agent.settings_values import (
    address,
    file,
    folder,
    folder_or_off,
    integer,
    level,
    name,
    seconds,
    switch,
    url,
)

PREFIX = "OPTIINFRA_AGENT_"
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT)|PORT)(_|$)")
FILE = PREFIX + "SETTINGS_FILE"
_FILES = (
    "settings_file",
    "kubelet_token_file",
    "kubelet_ca_file",
    "token_file",
    "tls_certificate_file",
    "tls_key_file",
    "tls_client_ca_file",
    "orchestrator_token_file",
    "orchestrator_ca_file",
)


def _about(variable: str, default: str, parse: Callable[[str], Any], meaning: str) -> dict[str, Any]:
    return {"variable": variable, "default": default, "parse": parse, "meaning": " ".join(meaning.split())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one agent process."""

    node_name: str = field(
        metadata=_about(
            "NODE_NAME",
            "",
            name,
            """Name of the Kubernetes node, from the downward API (spec.nodeName). Default: the host name.
            Danger: in a pod without host network the host name is the pod's, and the operator will not find
            the node.""",
        )
    )
    agent_id: str = field(
        metadata=_about(
            PREFIX + "ID",
            "",
            name,
            """Name under which the agent registers. Default: agent- and the node name. Danger: two agents with
            one name overwrite each other at the orchestrator.""",
        )
    )
    listen_address: str = field(
        metadata=_about(
            PREFIX + "LISTEN_ADDRESS",
            "0.0.0.0",  # noqa: S104 - the operator reads the agent by pod address; the chart adds a NetworkPolicy
            address,
            """Address to listen on. :: listens on IPv4 and IPv6. Danger: the pages name GPUs and their load;
            without a token only a NetworkPolicy keeps others out.""",
        )
    )
    listen_port: int = field(
        metadata=_about(
            PREFIX + "LISTEN_PORT",
            "8003",
            integer(0, 65535),
            """TCP port of all pages. 0 takes a free one and logs it.""",
        )
    )
    interval_s: float = field(
        metadata=_about(
            PREFIX + "INTERVAL",
            "15",
            seconds(1, 3600),
            """Seconds between two collections. A scrape never collects; it serves the last snapshot. Danger:
            every collection takes the driver's global lock; below 5 s the process lists of busy GPUs can be
            felt.""",
        )
    )
    procfs: Path = field(
        metadata=_about(
            PREFIX + "PROCFS",
            "/proc",
            folder,
            """Folder of the host's procfs. The default is right in a container too, as the files read are not
            namespaced; but network counters need the host's processes: its procfs mounted elsewhere, or hostPID.""",
        )
    )
    sysfs: Path = field(
        metadata=_about(
            PREFIX + "SYSFS",
            "/sys",
            folder,
            """Folder of the host's sysfs, for NUMA nodes. The default is right in a container too.""",
        )
    )
    nvml_deadline_s: float = field(
        metadata=_about(
            PREFIX + "NVML_DEADLINE",
            "5",
            seconds(0.1, 60),
            """Seconds a whole pass over all GPUs may take before the source counts as stuck. Danger: without
            persistence mode the first call wakes each GPU, which takes seconds.""",
        )
    )
    nvml_backoff_s: float = field(
        metadata=_about(
            PREFIX + "NVML_BACKOFF",
            "60",
            seconds(1, 3600),
            """Longest pause in seconds between two attempts to initialise the driver library; also the time
            after which a freshly installed driver is noticed.""",
        )
    )
    nvml_restart_after: int = field(
        metadata=_about(
            PREFIX + "NVML_RESTART_AFTER",
            "20",
            integer(0, 1_000_000),
            """Collections in a row that may fail with UNKNOWN (access to the GPUs was taken from this
            container) or with a driver version mismatch, after the driver had once answered, before
            /health/live fails: both are cured only by a restart of the container. 0 never asks for one.""",
        )
    )
    pod_resources: Path | None = field(
        metadata=_about(
            PREFIX + "POD_RESOURCES",
            "/var/lib/kubelet/pod-resources",
            folder_or_off,
            """Folder of the kubelet's pod-resources socket, or off (tier 0). Mount the folder and not the socket:
            a mounted socket is dead after the next restart of the kubelet. Without it the agent does not know
            which pod holds which GPU, and says so.""",
        )
    )
    pod_resources_deadline_s: float = field(
        metadata=_about(
            PREFIX + "POD_RESOURCES_DEADLINE",
            "2",
            seconds(0.1, 30),
            """Seconds one call of the kubelet may take in all.""",
        )
    )
    cgroups: Path | None = field(
        metadata=_about(
            PREFIX + "CGROUPS",
            "/sys/fs/cgroup",
            folder_or_off,
            """Mount of the host's cgroups, for CPU and memory of each container, or off. In a container the
            default shows only the container's own group, which is said and is no fault: mount the host's
            read-only elsewhere and name that folder.""",
        )
    )
    containers_interval_s: float = field(
        metadata=_about(
            PREFIX + "CONTAINERS_INTERVAL",
            "30",
            seconds(1, 3600),
            """Seconds between two readings of all containers' cgroups: three small files each. Between them the
            last reading is served.""",
        )
    )
    processes_interval_s: float = field(
        metadata=_about(
            PREFIX + "PROCESSES_INTERVAL",
            "60",
            seconds(1, 3600),
            """Seconds between two readings of the GPUs' process lists, the dearest calls of the driver: who uses a GPU,
            and whether below MPS. Between them the last reading is served. Danger: read often, they hold the driver's
            lock for milliseconds on a GPU with many processes.""",
        )
    )
    kubelet_url: str = field(
        metadata=_about(
            PREFIX + "KUBELET_URL",
            "",
            url,
            """The kubelet's own server, for instance https://$(HOST_IP):10250, for CPU and working set of containers
            where cgroups are not there (tier 0): its /metrics/resource. Empty: not asked. Danger: needs a token that
            may get nodes/metrics, on every node.""",
        )
    )
    kubelet_token_file: Path | None = field(
        metadata=_about(
            PREFIX + "KUBELET_TOKEN_FILE",
            "",
            file,
            """File with the token for the kubelet. Read again at each reading, because it is rotated.""",
        )
    )
    kubelet_ca_file: Path | None = field(
        metadata=_about(
            PREFIX + "KUBELET_CA_FILE",
            "",
            file,
            """Certificates (PEM) that the kubelet is verified with. Default: those of the image. A kubelet with a
            self-signed certificate needs it named here.""",
        )
    )
    token_file: Path | None = field(
        metadata=_about(
            PREFIX + "TOKEN_FILE",
            "",
            file,
            """File with a static token. When set, every page but /health* needs "Authorization: Bearer" with
            it. Read again every 10 s. Danger: an unreadable or empty file locks every reader out.""",
        )
    )
    tls_certificate_file: Path | None = field(
        metadata=_about(
            PREFIX + "TLS_CERTIFICATE_FILE",
            "",
            file,
            """Certificate (PEM, with its chain) to serve all pages over TLS. Needs the key file. Looked at again every
            10 s when a client connects, so that it can be replaced.""",
        )
    )
    tls_key_file: Path | None = field(
        metadata=_about(
            PREFIX + "TLS_KEY_FILE",
            "",
            file,
            """Private key of that certificate (PEM).""",
        )
    )
    tls_client_ca_file: Path | None = field(
        metadata=_about(
            PREFIX + "TLS_CLIENT_CA_FILE",
            "",
            file,
            """CA (PEM) whose client certificates are asked for: every page but /health* needs one. Read once, at the
            start.""",
        )
    )
    dcgm_names: bool = field(
        metadata=_about(
            PREFIX + "DCGM_NAMES",
            "off",
            switch,
            """on: /metrics shows the GPUs under the legacy names of dcgm-exporter (DCGM_FI_DEV_*) as well, for
            dashboards that ask for those. Danger: on a node with dcgm-exporter every GPU is then shown twice.""",
        )
    )
    connections: int = field(
        metadata=_about(
            PREFIX + "CONNECTIONS",
            "64",
            integer(4, 4096),
            """Open connections at most. One more closes the oldest, so that a flood cannot lock the kubelet
            out.""",
        )
    )
    settings_file: Path | None = field(
        metadata=_about(
            FILE,
            "",
            file,
            """File with settings, one NAME=value a line under these names; what the environment says goes before it.
            Read once, at the start. A line that is not understood, or a name that is not listed here, is an error.""",
        )
    )
    log_level: str = field(
        metadata=_about(
            PREFIX + "LOG_LEVEL",
            "INFO",
            level,
            """Least level that is logged: DEBUG, INFO, WARNING or ERROR.""",
        )
    )
    endpoint: str = field(
        metadata=_about(
            PREFIX + "ENDPOINT",
            "",
            url,
            """URL under which the orchestrator can reach this agent, for instance http://$(POD_IP):8003.
            Default: http (https with TLS), the node name and the port. Danger: the node name is often not
            resolvable from a pod.""",
        )
    )
    orchestrator_url: str = field(
        metadata=_about(
            "ORCHESTRATOR_URL",
            "",
            url,
            """Base URL of the orchestrator. Empty: the agent registers nowhere. It works on while that server
            is away.""",
        )
    )
    orchestrator_token_file: Path | None = field(
        metadata=_about(
            "ORCHESTRATOR_TOKEN_FILE",
            "",
            file,
            """File with the token sent to the orchestrator (a projected token of audience optiinfra). Read
            again at each call, because the kubelet rotates it. Danger: over http the token travels in the
            clear.""",
        )
    )
    orchestrator_ca_file: Path | None = field(
        metadata=_about(
            "ORCHESTRATOR_CA_FILE",
            "",
            file,
            """Certificates that an https orchestrator is verified with. Default: those of the image.""",
        )
    )
    orchestrator_timeout_s: float = field(
        metadata=_about(
            PREFIX + "ORCHESTRATOR_TIMEOUT",
            "5",
            seconds(0.1, 60),
            """Seconds one call to the orchestrator may take in all.""",
        )
    )
    heartbeat_s: float = field(
        metadata=_about(
            PREFIX + "HEARTBEAT",
            "30",
            seconds(1, 3600),
            """Seconds between two heartbeats. Danger: the orchestrator drops agents that stay silent for long.""",
        )
    )

    @property
    def identity(self) -> str:
        """The name under which the agent registers."""
        return self.agent_id or f"agent-{self.node_name}"

    @property
    def stale_after_s(self) -> float:
        """Age in seconds from which a snapshot no longer counts as current."""
        return 3 * self.interval_s + self.nvml_deadline_s + self.pod_resources_deadline_s


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that an environment describes; raise SettingsError at the first bad value."""
    values: dict[str, Any] = {}
    given = {**_from_file(environment), **{name: text for name, text in environment.items() if text.strip()}}
    for one in fields(Settings):
        variable, default = one.metadata["variable"], one.metadata["default"]
        # Set but empty means default: a chart cannot easily leave a variable out.
        text = given.get(variable, "").strip() or default
        try:
            values[one.name] = one.metadata["parse"](text)
        except ValueError as error:
            raise SettingsError(f"{variable}={text[:80]!r} is not usable: {error}") from error
    if not values["node_name"]:
        values["node_name"] = socket.gethostname()
    for setting in _FILES:
        path = values[setting]
        if path is not None and not path.is_file():
            variable = next(one.metadata["variable"] for one in fields(Settings) if one.name == setting)
            raise SettingsError(f"{variable}={str(path)!r} is not usable: there is no such file; mount it or unset it")
    if (values["tls_certificate_file"] is None) != (values["tls_key_file"] is None):
        raise SettingsError(
            f"{PREFIX}TLS_CERTIFICATE_FILE and {PREFIX}TLS_KEY_FILE belong together: set both or neither"
        )
    if values["tls_client_ca_file"] is not None and values["tls_certificate_file"] is None:
        raise SettingsError(f"{PREFIX}TLS_CLIENT_CA_FILE is not usable without {PREFIX}TLS_CERTIFICATE_FILE")
    return Settings(**values)


def _from_file(environment: Mapping[str, str]) -> dict[str, str]:
    variables = {one.metadata["variable"] for one in fields(Settings)} - {FILE}
    text = environment.get(FILE, "").strip()
    if not text:
        return {}
    path = Path(text)
    if not path.is_absolute():
        raise SettingsError(f"{FILE}={text[:80]!r} is not usable: give an absolute path")
    return read_settings_file(path, known=variables)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables with our prefix that mean nothing, leaving out those Kubernetes makes for Services."""
    known = {one.metadata["variable"] for one in fields(Settings)}
    return sorted(
        name for name in environment if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.search(name)
    )


def in_force(settings: Settings) -> dict[str, str | int | float | None]:
    """Return every setting by its variable, as it is used. There is no secret among them: tokens are files."""
    shown: dict[str, str | int | float | None] = {}
    for one in fields(Settings):
        value = getattr(settings, one.name)
        shown[one.metadata["variable"]] = str(value) if isinstance(value, Path) else value
    return shown


def describe() -> str:
    """Return the paragraph of every setting, for `--help`."""
    lines: list[str] = []
    for one in fields(Settings):
        default = one.metadata["default"]
        lines.append(f"  {one.metadata['variable']}" + (f" (default {default})" if default else ""))
        lines += textwrap.wrap(one.metadata["meaning"], 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
