"""Where the clusters of test runs lie, and how those of killed runs are ended, also those that lie elsewhere.

A run that ends in any ordinary way takes its clusters down itself. One that is killed cannot, so the next
run looks for clusters whose owner is gone.
"""

import os
from pathlib import Path

from hack.cluster import owned
from hack.cluster.cluster import Cluster
from hack.cluster.record import Record


def session_folder(name: str) -> Path:
    """Return a state directory for a cluster that this process owns."""
    return owned.sessions() / f"{name}-{os.getpid()}"


def sweep(parent: Path | None = None) -> int:
    """Take down the clusters whose owner is gone; return how many there were."""
    count = 0
    for folder in owned.folders(parent):
        record = Record.read(folder)
        if record is not None and record.owner is not None and not record.owner.alive:
            count += Cluster(folder).down()
            owned.unsign(folder, parent=parent)
    return count
