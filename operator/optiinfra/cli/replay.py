"""`optiinfra replay`: what would have been, on your own data; one command a question, imported when it is called.

A replay runs the operator's own decisions over a file of history. Each module `replay_*` reads its own format and
prints its own figures; nothing is shared but the table of names.
"""

from collections.abc import Mapping
from typing import Final

import click

from optiinfra.cli.main import Entry, LazyGroup

REPLAYS: Final[Mapping[str, Entry]] = {
    "scaling": Entry("optiinfra.cli.replay_scaling:scaling", "Replicas, cost and lateness, beside plain HPAs."),
    "consolidation": Entry(
        "optiinfra.cli.replay_consolidation:consolidation", "GPUs allocated and nodes in use, by rule of placement."
    ),
    "rightsizing": Entry(
        "optiinfra.cli.replay_rightsizing:rightsizing", "CPU and memory requests, beside VPA and KRR."
    ),
    "kvcache": Entry("optiinfra.cli.replay_kvcache:kvcache", "Hit ratios of prefix caches, by size and routing."),
    "idle": Entry("optiinfra.cli.replay_idle:idle", "Idle GPUs in a file of samples, and how right that was."),
}


class ReplayGroup(LazyGroup):
    """The group of replays."""

    table = REPLAYS


@click.group(cls=ReplayGroup)
def replay() -> None:
    """Say what would have been done, on your own history."""
