"""The entry of the kubectl plug-in, which kubectl finds as `kubectl-optiinfra` on the PATH.

It imports its commands in the lean way of the other commands: whoever types one waits for every import.
"""

import importlib

import click

from optiinfra import footprint


def main() -> None:
    """Run `kubectl optiinfra`."""
    with footprint.lean_imports():
        command = importlib.import_module("optiinfra.cli.plugin_commands").plugin
    if not isinstance(command, click.Command):
        raise TypeError("optiinfra.cli.plugin_commands:plugin is not a click command")
    command(prog_name="kubectl optiinfra")
