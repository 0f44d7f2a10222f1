"""Settings: each wrong value is one line that names its variable."""

import pytest

from optiinfra.errors import SettingsError
from optiinfra.settings import OperatorSettings, Scope, read_settings

LONG = "x" * 300


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("OPTIINFRA_")]:
        monkeypatch.delenv(name)


def refused(monkeypatch, **values: str) -> str:
    for name, value in values.items():
        monkeypatch.setenv(f"OPTIINFRA_{name}", value)
    with pytest.raises(SettingsError) as error:
        read_settings()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_without_any_variable_the_defaults_hold():
    settings = read_settings()
    assert settings.scope is Scope.CLUSTER
    assert not settings.actuation_enabled
    assert not settings.llm_enabled
    assert settings.http_authentication
    assert settings.kubeconfig is None
    assert settings.identity == "optiinfra-operator@127.0.0.1:8080"
    assert settings.agents_namespace == "optiinfra"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCOPE", "cluster"),
        ("SCOPE", "Namespace"),
        ("NAMESPACE", LONG),
        ("POD_NAME", LONG),
        ("LEASE_NAME", LONG),
        ("ACTUATION_ENABLED", "maybe"),
        ("HTTP_AUTHENTICATION", "2"),
        ("LOG_LEVEL", "debug"),
        ("LOG_LEVEL", "INFO\nDEBUG"),
        *(
            (name, value)
            for name, low, high in (
                ("INTERVAL_SECONDS", "0.1", "3601"),
                ("SCRAPE_INTERVAL_SECONDS", "0.9", "301"),
                ("AGENT_INTERVAL_SECONDS", "0", "301"),
                ("AGENT_PORT", "0", "65536"),
                ("SCRAPE_CONCURRENCY", "0", "1025"),
                ("SCRAPE_TIMEOUT_SECONDS", "0", "31"),
                ("PAGE_LIMIT_BYTES", "1024", "999999999"),
                ("SIGNAL_WINDOW_SECONDS", "9", "901"),
                ("STALE_AFTER_SECONDS", "4", "901"),
                ("HOLD_SECONDS", "-1", "3601"),
                ("IDLE_SPAN_SECONDS", "29", "86401"),
                ("LEASE_DURATION_SECONDS", "2", "121"),
                ("RENEW_DEADLINE_SECONDS", "1", "91"),
                ("RETRY_PERIOD_SECONDS", "0.4", "31"),
                ("HTTP_PORT", "-1", "65536"),
                ("EXTERNAL_METRICS_PORT", "-1", "65536"),
                ("KEDA_SCALER_PORT", "-1", "65536"),
                ("LLM_TIMEOUT_SECONDS", "0", "121"),
            )
            for value in (low, high, "many", "nan", "inf", "1e400")
        ),
        ("HTTP_PORT", "tcp://10.0.0.1:80"),
        ("AGENT_PORT", "8003.5"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_shows_the_value(monkeypatch, name, value):
    text = refused(monkeypatch, **{name: value})
    assert text.startswith(f"OPTIINFRA_{name}: ")
    assert repr(value)[:50] in text or name.endswith(("NAME", "NAMESPACE"))
    assert "restart" in text


@pytest.mark.parametrize("name", ["KUBECONFIG", "LLM_KEY_FILE", "AGENT_TOKEN_FILE", "TLS_KEY_FILE", "INTERVAL_SECONDS"])
def test_an_empty_variable_is_none_and_not_the_present_folder(monkeypatch, name):
    monkeypatch.setenv(f"OPTIINFRA_{name}", "")
    assert getattr(read_settings(), name.lower()) is None


def test_an_empty_key_file_does_not_pass_for_one(monkeypatch):
    assert "OPTIINFRA_LLM_KEY_FILE" in refused(monkeypatch, LLM_ENABLED="true", LLM_KEY_FILE="")


def test_scope_namespaces_without_any_is_refused(monkeypatch):
    for value in ("", " , ,"):
        assert "OPTIINFRA_WATCH_NAMESPACES" in refused(monkeypatch, SCOPE="Namespaces", WATCH_NAMESPACES=value)


def test_external_metrics_need_a_certificate_and_a_key(monkeypatch):
    text = refused(monkeypatch, EXTERNAL_METRICS_ENABLED="true", TLS_CERTIFICATE_FILE="/tls/tls.crt")
    assert "OPTIINFRA_TLS_KEY_FILE" in text
    assert "OPTIINFRA_TLS_CERTIFICATE_FILE" in text


def test_the_keda_scaler_needs_a_certificate_and_a_key(monkeypatch):
    text = refused(monkeypatch, KEDA_SCALER_ENABLED="true", KEDA_KEY_FILE="/tls/tls.key")
    assert "OPTIINFRA_KEDA_CERTIFICATE_FILE" in text
    assert "OPTIINFRA_KEDA_KEY_FILE" in text


def test_an_llm_needs_a_key_file(monkeypatch):
    assert "OPTIINFRA_LLM_KEY_FILE" in refused(monkeypatch, LLM_ENABLED="true")


def test_lists_are_split_and_trimmed(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_SCOPE", "Namespaces")
    monkeypatch.setenv("OPTIINFRA_WATCH_NAMESPACES", " a, b ,,c ")
    assert read_settings().watch_namespaces == ("a", "b", "c")


def test_good_values_are_read(monkeypatch):
    for name, value in {
        "POD_NAME": "op-0",
        "POD_IP": "10.2.3.4",
        "HTTP_PORT": "9090",
        "AGENT_NAMESPACE": "agents",
        "ACTUATION_ENABLED": "true",
        "INTERVAL_SECONDS": "5",
    }.items():
        monkeypatch.setenv(f"OPTIINFRA_{name}", value)
    settings = read_settings()
    assert settings.identity == "op-0@10.2.3.4:9090"
    assert settings.agents_namespace == "agents"
    assert settings.actuation_enabled
    assert settings.interval_seconds == 5.0


def test_variables_of_others_are_none_of_our_business(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_OPERATOR_SERVICE_HOST", "10.0.0.1")  # Kubernetes adds these for each Service
    monkeypatch.setenv("OPTIINFRA_PORT_8080_TCP", "tcp://10.0.0.1:8080")
    read_settings()


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValueError, match="frozen"):
        OperatorSettings().namespace = "other"  # type: ignore[misc]  # that is the point


def test_every_setting_has_its_own_paragraph():
    import inspect
    import re

    source = inspect.getsource(OperatorSettings)
    for name in OperatorSettings.model_fields:
        if name == "tls_certificate_file":
            continue  # shares the one of its key
        assert re.search(rf'^    {name}: [^\n]*\n(?:        [^\n]*\n|    \)\n)*    """', source, re.MULTILINE), name
