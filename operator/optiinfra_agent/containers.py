"""What containers use: from the host's cgroups, or, where those are not to be had, from the kubelet's metrics.

Cgroups first: they name pods by uid, tell memory and working set, and need no token. Only where they cannot be read at
all, and a kubelet's address is set, that is asked; the reason why then stands beside the reading. Never both: the same
container would be counted twice, under two kinds of names.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optiinfra_agent.cgroups import ContainerCollector
from optiinfra_agent.errors import SourceDeniedError, SourceUnavailableError
from optiinfra_agent.settings import Settings
from optiinfra_agent.snapshot import ContainerReading, NamedContainer

if TYPE_CHECKING:
    from optiinfra_agent.kubelet_metrics import KubeletMetrics

KUBELET_DEADLINE_S = 4.0


@dataclass(frozen=True, slots=True)
class ContainerPass:
    """What one reading gave: by uid and id, or by name. `note` says why it is by name."""

    containers: tuple[ContainerReading, ...] = ()
    named: tuple[NamedContainer, ...] = ()
    note: str = ""


class ContainerUsage:
    """Reads what all containers of the node use."""

    def __init__(self, settings: Settings) -> None:
        self._cgroups = ContainerCollector(settings.cgroups)
        self._kubelet = _kubelet(settings) if settings.kubelet_url else None

    def collect(self) -> ContainerPass:
        """Return one reading, or raise the SourceError of the whole source."""
        try:
            return ContainerPass(containers=self._cgroups.collect())
        except (SourceUnavailableError, SourceDeniedError) as error:
            if self._kubelet is None:
                raise
            note = f"by the kubelet's metrics, because cgroups are {error.state.value}: {error.reason}"
            return ContainerPass(named=self._kubelet.collect(), note=note)


def _kubelet(settings: Settings) -> "KubeletMetrics":
    # Loaded by few: TLS and HTTP are 3 MiB that cgroups do not need.
    from optiinfra_agent.kubelet_metrics import KubeletMetrics  # noqa: PLC0415

    return KubeletMetrics(
        settings.kubelet_url,
        token_file=settings.kubelet_token_file,
        ca_file=settings.kubelet_ca_file,
        deadline_s=KUBELET_DEADLINE_S,
    )
