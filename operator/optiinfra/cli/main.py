"""The root command `optiinfra`: a table of commands, each imported only when it is called.

`optiinfra crds` must not load langgraph, and `optiinfra --help` must load nothing: importing everything costs
seconds and a hundred MiB. So the table holds the one-line help too.
"""

import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

from optiinfra import footprint


class Entry(NamedTuple):
    """Where a command is found, and what it does in one line."""

    target: str
    """`module:function` of a click command."""
    help: str
    described: bool = True
    """Whether its models know the descriptions of their fields: a tenth of the operator's start, for CRDs alone."""


COMMANDS: dict[str, Entry] = {
    "analyze": Entry("optiinfra.cli.analyze:analyze", "Say what limits an engine, from recorded pages."),
    "crds": Entry("optiinfra.cli.crds:crds", "Write or check the CustomResourceDefinitions."),
    "operator": Entry("optiinfra.cli.operator:operator", "Run one replica of the operator.", described=False),
    "replay": Entry("optiinfra.cli.replay:replay", "Say what would have been done, on your own history."),
    "report": Entry("optiinfra.cli.report:report", "Say what a fleet costs and would save, from a Prometheus."),
    "release": Entry("optiinfra.cli.release:release", "Give held values back, before the operator is removed."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    table: Mapping[str, Entry] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, without importing anything."""
        return sorted({*self.table, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is called."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, function = entry.target.partition(":")
        with footprint.lean_imports(described=entry.described):
            command = getattr(importlib.import_module(module), function)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the entries, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.table[name].help) for name in self.list_commands(ctx) if name in self.table]
            )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="optiinfra")
def main() -> None:
    """Find and remove waste in clusters that serve LLMs."""
