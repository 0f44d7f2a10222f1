"""The agent without Kubernetes: the example of a systemd unit runs this agent, with settings that exist."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optiinfra_agent.settings import read_settings, unknown_variables
from tests.unit.agent.conftest import run_agent

UNIT = Path(__file__).parents[3] / "examples/systemd/optiinfra-agent.service"


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def test_the_unit_s_environment_is_understood_and_measures() -> None:
    environment = dict(value.partition("=")[::2] for value in values("Environment"))
    assert environment
    assert unknown_variables(environment) == []
    assert read_settings(environment).listen_address == "127.0.0.1"
    done = run_agent("--once", **environment)
    assert done.returncode == 0, done.stderr
    assert '"memory":{"total_bytes"' in done.stdout


def test_the_unit_starts_the_command_that_the_package_installs() -> None:
    command = Path(values("ExecStart")[0])
    assert command.name == "optiinfra-agent"
    assert (Path(sys.executable).parent / command.name).exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on the PATH")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # The command of the example is not installed here; the check looks whether it can be run.
    unit.write_text(UNIT.read_text().replace(values("ExecStart")[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
