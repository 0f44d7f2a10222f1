"""Settings: defaults, every kind of bad value, and what the command says about them."""

import socket
from pathlib import Path

import pytest

from optiinfra_agent.errors import SettingsError
from optiinfra_agent.settings import describe, read_settings, unknown_variables
from tests.unit.agent.conftest import run_agent


def test_defaults() -> None:
    settings = read_settings({})
    assert settings.node_name == socket.gethostname()
    assert settings.identity == f"agent-{socket.gethostname()}"
    assert settings.listen_port == 8003
    assert settings.interval_s == 15
    assert settings.stale_after_s == 52
    assert settings.orchestrator_url == ""
    assert settings.token_file is None


def test_empty_means_default() -> None:
    assert read_settings({"OPTIINFRA_AGENT_INTERVAL": " "}).interval_s == 15


def test_values_are_taken(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    settings = read_settings(
        {
            "NODE_NAME": "gpu-0",
            "OPTIINFRA_AGENT_INTERVAL": "2.5",
            "OPTIINFRA_AGENT_TOKEN_FILE": str(token),
            "ORCHESTRATOR_URL": "http://operator.optiinfra:8080/",
            "OPTIINFRA_AGENT_LOG_LEVEL": "debug",
        }
    )
    assert settings.identity == "agent-gpu-0"
    assert settings.interval_s == 2.5
    assert settings.token_file == token
    assert settings.orchestrator_url == "http://operator.optiinfra:8080"
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("OPTIINFRA_AGENT_INTERVAL", "0.5", "between 1 and 3600"),
        ("OPTIINFRA_AGENT_INTERVAL", "nan", "between 1 and 3600"),
        ("OPTIINFRA_AGENT_INTERVAL", "15s", "between 1 and 3600"),
        ("OPTIINFRA_AGENT_LISTEN_PORT", "tcp://10.0.0.1:8003", "whole number"),
        ("OPTIINFRA_AGENT_LISTEN_PORT", "65536", "whole number"),
        ("OPTIINFRA_AGENT_LISTEN_ADDRESS", "localhost", "IP address"),
        ("OPTIINFRA_AGENT_PROCFS", "proc", "absolute path"),
        ("OPTIINFRA_AGENT_PROCFS", "/nowhere/proc", "exists"),
        ("OPTIINFRA_AGENT_TOKEN_FILE", "/nowhere/token", "no such file"),
        ("OPTIINFRA_AGENT_TOKEN_FILE", "token", "absolute path"),
        ("OPTIINFRA_AGENT_LOG_LEVEL", "loud", "DEBUG"),
        ("OPTIINFRA_AGENT_CONNECTIONS", "0", "whole number"),
        ("OPTIINFRA_AGENT_ID", "a b", "letters"),
        ("NODE_NAME", "../x", "letters"),
        ("ORCHESTRATOR_URL", "operator:8080", "http://host:port"),
        ("ORCHESTRATOR_URL", "ftp://operator", "http://host:port"),
        ("ORCHESTRATOR_URL", "http://user:word@operator", "http://host:port"),
        ("ORCHESTRATOR_URL", "http://operator:99999", "http://host:port"),
        ("ORCHESTRATOR_URL", "http://[::1", "http://host:port"),
    ],
)
def test_bad_value_names_variable_and_remedy(variable: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({variable: value})
    text = str(caught.value)
    assert variable in text
    assert remedy in text
    assert "\n" not in text


def test_the_command_ends_with_2_and_one_line() -> None:
    done = run_agent(OPTIINFRA_AGENT_INTERVAL="often")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "OPTIINFRA_AGENT_INTERVAL='often'" in done.stderr


def test_help_documents_every_setting() -> None:
    done = run_agent("--help")
    assert done.returncode == 0
    assert describe() in done.stdout
    for variable in ("OPTIINFRA_AGENT_LISTEN_PORT", "ORCHESTRATOR_URL", "NODE_NAME"):
        assert variable in done.stdout


def test_version() -> None:
    done = run_agent("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("optiinfra-agent ")


def test_a_typing_error_is_noticed_and_a_service_link_is_not() -> None:
    environment = {
        "OPTIINFRA_AGENT_INTERVALL": "1",
        "OPTIINFRA_AGENT_PORT": "tcp://10.0.0.1:8003",
        "OPTIINFRA_AGENT_SERVICE_HOST": "10.0.0.1",
        "OPTIINFRA_AGENT_PORT_8003_TCP_ADDR": "10.0.0.1",
        "OPTIINFRA_AGENT_INTERVAL": "1",
    }
    assert unknown_variables(environment) == ["OPTIINFRA_AGENT_INTERVALL"]


def test_settings_from_a_file_and_the_environment_before_it(tmp_path: Path) -> None:
    file = tmp_path / "agent.env"
    file.write_text('# of this host\n\nNODE_NAME=gpu-7\nOPTIINFRA_AGENT_INTERVAL = "30"\nORCHESTRATOR_URL=http://o:1\n')
    settings = read_settings({"OPTIINFRA_AGENT_SETTINGS_FILE": str(file), "OPTIINFRA_AGENT_INTERVAL": "10"})
    assert (settings.node_name, settings.interval_s, settings.orchestrator_url) == ("gpu-7", 10, "http://o:1")
    # Set but empty means default there, and no word against the file.
    settings = read_settings({"OPTIINFRA_AGENT_SETTINGS_FILE": str(file), "OPTIINFRA_AGENT_INTERVAL": " "})
    assert settings.interval_s == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NODE_NAME=a\ngarbage\n", "line 2: write NAME=value"),
        ("OPTIINFRA_AGENT_INTERVALL=3\n", "line 1: 'OPTIINFRA_AGENT_INTERVALL' means nothing here"),
        ("NODE_NAME=a\nNODE_NAME=b\n", "line 2: NODE_NAME is given twice"),
        ("OPTIINFRA_AGENT_INTERVAL=0\n", "OPTIINFRA_AGENT_INTERVAL='0' is not usable"),
        ("OPTIINFRA_AGENT_SETTINGS_FILE=/etc/other\n", "means nothing here"),
        ("#" * 70_000, "larger than"),
    ],
)
def test_a_bad_settings_file_is_one_clear_error(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "agent.env"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        read_settings({"OPTIINFRA_AGENT_SETTINGS_FILE": str(file)})
    assert "\n" not in str(caught.value)


def test_a_settings_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings({"OPTIINFRA_AGENT_SETTINGS_FILE": str(tmp_path / "none")})
    with pytest.raises(SettingsError, match="absolute path"):
        read_settings({"OPTIINFRA_AGENT_SETTINGS_FILE": "agent.env"})


def test_an_ipv6_address_of_the_downward_api_gets_its_brackets() -> None:
    given = {"OPTIINFRA_AGENT_KUBELET_URL": "https://fd00::1:10250", "OPTIINFRA_AGENT_ENDPOINT": "http://::1:8003"}
    settings = read_settings(given)
    assert (settings.kubelet_url, settings.endpoint) == ("https://[fd00::1]:10250", "http://[::1]:8003")
    for usual in ("https://10.0.0.7:10250", "https://[fd00::1]:10250", "https://node-a"):
        assert read_settings({"OPTIINFRA_AGENT_KUBELET_URL": usual}).kubelet_url == usual
