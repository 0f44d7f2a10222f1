"""The GPU that a MIG device is on, asked of the driver.

The kubelet names a MIG device by a uuid of its own, which holds nothing of its GPU's. A MIG device never moves, and a
new partition gets a new uuid, so an answer is kept for as long as the device is in use. A device that the driver does
not know has no GPU here: the caller counts it as unresolved.
"""

from collections.abc import Collection, Mapping

from optiinfra_agent.errors import NvmlCallError, SourceError
from optiinfra_agent.nvml import NvmlSession

MAX_DEVICES = 1024


class MigParents:
    """Remembers which GPU each MIG device is on."""

    def __init__(self, session: NvmlSession) -> None:
        self._session = session
        self._known: dict[str, str] = {}

    def resolve(self, devices: Collection[str]) -> Mapping[str, str]:
        """Return MIG uuid -> uuid of its GPU, for those the driver knows."""
        wanted = sorted(devices)[:MAX_DEVICES]
        self._known = {device: self._known[device] for device in wanted if device in self._known}
        if not self._session.is_open:
            return dict(self._known)
        for device in wanted:
            if device not in self._known and (uuid := self._ask(device)):
                self._known[device] = uuid
        return dict(self._known)

    def _ask(self, device: str) -> str:
        try:
            part = self._session.call("nvmlDeviceGetHandleByUUID", device)
            gpu = self._session.call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", part)
            return str(self._session.call("nvmlDeviceGetUUID", gpu))
        except (NvmlCallError, SourceError):
            # Not known to this driver, or not at this moment: asked again in the next pass. That the session is gone,
            # the next pass over the GPUs finds out and says.
            return ""
