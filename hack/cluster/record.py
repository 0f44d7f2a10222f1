"""What is remembered of a cluster between two commands: its addresses, its processes, who owns it.

One JSON file in the state directory, replaced by a rename. Its presence also marks the directory as one
that `down` may empty: no other directory is ever removed.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hack.cluster.addresses import Addresses
from hack.cluster.errors import ClusterError
from hack.cluster.processes import Process

FILE = "cluster.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of the file."""

    addresses: Addresses
    settings: dict[str, Any]
    processes: tuple[Process, ...] = ()
    """In the order in which they were started."""
    owner: Process | None = None
    """The test run that will end the cluster; None when a person will, with `down`."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the record of a state directory; None when it holds none."""
        path = folder / FILE
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ClusterError(f"{path} is not readable ({error}): end its processes and remove it") from error
        owner = content["owner"]
        return cls(
            addresses=Addresses(**content["addresses"]),
            settings=content["settings"],
            processes=tuple(Process(**each) for each in content["processes"]),
            owner=Process(**owner) if owner else None,
        )

    def write(self, folder: Path) -> None:
        """Replace the record of a state directory."""
        fresh = folder / f"{FILE}.new"
        fresh.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        fresh.replace(folder / FILE)

    def process(self, name: str) -> Process:
        """Return a process by name."""
        for process in self.processes:
            if process.name == name:
                return process
        raise ClusterError(f"{name} is not part of this cluster")

    def replacing(self, process: Process) -> Self:
        """Return a record in which a process of that name is replaced, or added as the last."""
        others = [each for each in self.processes if each.name != process.name]
        position = next((i for i, each in enumerate(self.processes) if each.name == process.name), len(others))
        return dataclasses.replace(self, processes=(*others[:position], process, *others[position:]))
