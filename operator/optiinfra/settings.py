"""Settings of the operator process: typed, each one an environment variable, read once at start.

They describe the installation (where to listen, how wide to look, what may be written at all). What to do with a
workload is never a setting here: that is the custom resource's business. A wrong value ends the process with one
line that names the variable; nothing falls back to a default silently.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from optiinfra.errors import SettingsError


class Scope(StrEnum):
    """How much of the cluster the operator looks at."""

    CLUSTER = "Cluster"
    NAMESPACES = "Namespaces"


class OperatorSettings(BaseSettings):
    """Every field is the environment variable `OPTIINFRA_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="OPTIINFRA_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,  # an empty value in a manifest means that nobody set it
    )

    kubeconfig: Path | None = None
    """Kubeconfig file; unset inside a cluster, where the pod's own ServiceAccount is used."""

    namespace: str = Field(default="optiinfra", max_length=63)
    """Namespace of the operator itself: Lease, Events without an object, agents."""

    pod_name: str = Field(default="optiinfra-operator", max_length=253)
    """Name under which the Lease is held; must differ between replicas."""

    pod_ip: str = "127.0.0.1"
    """Address at which the other replica reaches this one; part of the Lease's holder identity."""

    scope: Scope = Scope.CLUSTER
    """`Namespaces` looks only at `watch_namespaces`: no nodes, no agents, no ClusterResourceOptimization."""

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma list, for scope Namespaces. Danger: empty with that scope is refused, it would watch nothing."""

    actuation_enabled: bool = False
    """Whether anything but status and Events may be written. The chart sets it together with the Role."""

    resize_enabled: bool = False
    """Whether requests of running pods may be changed in place. The chart sets it together with the right to."""

    interval_seconds: float | None = Field(default=None, ge=0.2, le=3600)
    """Overrides every object's `interval`; for tests and demonstrations."""

    scrape_interval_seconds: float = Field(default=5.0, ge=1, le=300)
    """How often engines are read. Danger: below 5 s engines with long pages notice."""

    agent_interval_seconds: float = Field(default=15.0, ge=1, le=300)
    """How often node agents are read."""

    agent_port: int = Field(default=8003, ge=1, le=65535)
    """Port of the agents."""

    agent_selector: str = "app.kubernetes.io/name=optiinfra,app.kubernetes.io/component=agent"
    """Label selector of the agents' pods in the operator's namespace."""

    agent_namespace: str = ""
    """Namespace of the agents; empty means the operator's own."""

    dra_enabled: bool = True
    """Mirror ResourceSlices and ResourceClaims where the server has them, so that claimed GPUs are known as such."""

    agent_token_file: Path | None = None
    """Bearer token the agents ask for, when they are protected by one."""

    agent_tls_ca_file: Path | None = None
    """CA that signs the agents' certificates: they are then read over https. The name in a certificate is not checked,
    because agents are read by the addresses of their pods."""

    agent_tls_certificate_file: Path | None = None
    """Certificate to show to agents that ask for one; needs `agent_tls_key_file`. Read again every five minutes."""

    agent_tls_key_file: Path | None = None
    """Private key of that certificate."""

    scrape_concurrency: int = Field(default=64, ge=1, le=1024)
    """Connections to engines and agents at one time."""

    scrape_timeout_seconds: float = Field(default=3.0, gt=0, le=30)
    """Total time for one page."""

    page_limit_bytes: int = Field(default=4 << 20, ge=64 << 10, le=64 << 20)
    """Largest page that is read; a larger one is an invalid page of its own object only."""

    prometheus_url: str = Field(default="", max_length=1024, pattern="^($|https?://)")
    """Prometheus-compatible server of objects with `engine.source: Prometheus`, and of history at the start; empty asks
    none. The credentials below are for this address alone: a server that only a custom resource names gets none."""

    prometheus_token_file: Path | None = None
    """Bearer token for that server, read anew for each call."""

    prometheus_user: str = Field(default="", max_length=256)
    """User for basic authentication, with `prometheus_password_file`."""

    prometheus_password_file: Path | None = None
    """Password of that user, its first line, read anew for each call."""

    prometheus_ca_file: Path | None = None
    """CA that signs that server's certificate; unset: those that the system trusts."""

    prometheus_certificate_file: Path | None = None
    """Certificate to show to a server that asks for one (mTLS); needs `prometheus_key_file`."""

    prometheus_key_file: Path | None = None
    """Private key of that certificate."""

    prometheus_tenant: str = Field(default="", max_length=256)
    """Tenant on a server that keeps several apart: the header X-Scope-OrgID (Mimir) or THANOS-TENANT (Thanos)."""

    prometheus_matchers: str = Field(default="", max_length=1024)
    """Label matchers for every query, such as `cluster="prod-1"`. Danger: on a server of several clusters, pods of the
    same namespace and name are mixed without them."""

    prometheus_namespace_label: str = Field(default="namespace", pattern="^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")
    """Label of an engine's series that holds its pod's namespace."""

    prometheus_pod_label: str = Field(default="pod", pattern="^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")
    """Label of an engine's series that holds its pod's name."""

    prometheus_interval_seconds: float = Field(default=10.0, ge=2, le=300)
    """How often a metrics server is asked for new scrapes of engines."""

    prometheus_timeout_seconds: float = Field(default=10.0, ge=1, le=120)
    """Total time for one query."""

    prometheus_concurrency: int = Field(default=2, ge=1, le=16)
    """Queries to one metrics server at one time."""

    prometheus_history_days: float = Field(default=14.0, ge=0, le=63)
    """Days of history that are read once for what no checkpoint knows; 0 reads none."""

    signal_window_seconds: float = Field(default=60.0, ge=10, le=900)
    """Window of rates, quantiles and verdicts."""

    stale_after_seconds: float = Field(default=45.0, ge=5, le=900)
    """A page or snapshot older than this is unknown."""

    hold_seconds: float = Field(default=180.0, ge=0, le=3600)
    """How long load must be known before replicas may fall."""

    patience_seconds: float = Field(default=60.0, ge=5, le=900)
    """How long what runs may differ from what was decided before `ActuationEffective` asks why: four syncs of the HPA
    controller at its default of 15 s (`--horizontal-pod-autoscaler-sync-period`)."""

    tick_seconds: float = Field(default=15.0, ge=1, le=15)
    """Tick of the scaler. Danger: all that it learned, and every hold of 1 to 40 min, is counted in ticks of 15 s."""

    idle_span_seconds: float = Field(default=600.0, ge=30, le=86400)
    """Shortest span of samples from which a GPU counts as idle. Danger: shorter spans call pauses idleness."""

    lease_name: str = Field(default="optiinfra-operator", max_length=63)
    """Name of the Lease; one per set of replicas."""

    control_config_map: str = Field(default="optiinfra-control", min_length=1, max_length=253)
    """ConfigMap in the operator's namespace whose key `paused` is the kill switch."""

    lease_duration_seconds: float = Field(default=15.0, ge=3, le=120)
    """How long a leader is believed without a sign of life."""

    renew_deadline_seconds: float = Field(default=10.0, ge=2, le=90)
    """A leader that could not renew for so long stops writing and exits."""

    retry_period_seconds: float = Field(default=2.0, ge=0.5, le=30)
    """Pause between tries to take or renew the Lease."""

    http_host: str = "0.0.0.0"  # noqa: S104  a pod listens on its own address, which it does not know
    """Address to listen on."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of health, metrics and the HTTP API."""

    http_authentication: bool = True
    """TokenReview and SubjectAccessReview for everything but health and metrics. Danger: off is for tests only."""

    token_audience: str = "optiinfra"  # noqa: S105  an audience, not a secret
    """Audience that tokens of callers must carry; API-server tokens are never accepted."""

    proxy_token_file: Path | None = None
    """Projected token (audience as above) with which a follower passes calls on to the leader."""

    external_metrics_enabled: bool = False
    """Serve external.metrics.k8s.io; needs the APIService, which only one owner can have."""

    external_metrics_port: int = Field(default=8443, ge=0, le=65535)
    """TLS port of external.metrics.k8s.io."""

    external_metrics_service: str = Field(default="optiinfra-operator", max_length=63)
    """Our Service in our namespace: the APIService leads to it, or the API belongs to somebody else."""

    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    """Serving certificate and key for external.metrics.k8s.io."""

    keda_scaler_enabled: bool = False
    """Serve KEDA's external-scaler protocol (gRPC). Needs a certificate and a key; there is no plain port."""

    keda_scaler_port: int = Field(default=9443, ge=0, le=65535)
    """TLS port of KEDA's external scaler."""

    keda_certificate_file: Path | None = None
    """Certificate of that port. Looked at every half minute; a renewed one needs no restart."""

    keda_key_file: Path | None = None
    """Private key of that certificate."""

    keda_client_ca_file: Path | None = None
    """CA of the certificate that KEDA shows. Danger: unset, whoever reaches the port may ask."""

    llm_enabled: bool = False
    """Ask an LLM to explain and rank. Needs `llm_key_file`."""

    llm_endpoint: str = "https://api.groq.com"
    """Groq, or any OpenAI-compatible server; `llm_path` is appended."""

    llm_path: str = Field(default="/openai/v1/chat/completions", pattern="^/")
    """Path of the chat-completions call; other servers with OpenAI's API usually have /v1/chat/completions."""

    llm_proxy: str = ""
    """HTTP proxy towards the endpoint. Proxy variables of the environment are not read."""

    llm_model: str = "openai/gpt-oss-20b"
    """Model name as the endpoint knows it."""

    llm_key_file: Path | None = None
    """File with the key, mounted from one Secret; read at each call, so that rotation works."""

    llm_timeout_seconds: float = Field(default=20.0, ge=1, le=120)
    """Total time for one question, retries included."""

    kv_optkit_url: str = Field(default="", max_length=1024, pattern="^($|https?://)")
    """Address of a KV-OptKit server whose plan is shown beside our advice on the KV cache; empty asks none."""

    price_config_map: str = Field(default="", max_length=253)
    """ConfigMap in the operator's namespace whose key prices.csv is a table of node prices; empty reads none."""

    opencost_url: str = Field(default="", max_length=1024, pattern="^($|https?://)")
    """Address of OpenCost's API (port 9003), for what nodes really cost; empty asks none."""

    price_prometheus_url: str = Field(default="", max_length=1024, pattern="^($|https?://)")
    """Address of a Prometheus-compatible server that scrapes OpenCost; empty asks none."""

    price_prometheus_token_file: Path | None = None
    """Bearer token for that server, read anew for each call."""

    price_currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    """Currency of OpenCost's and that server's prices, which neither says. Danger: a wrong one mixes currencies."""

    list_prices_enabled: bool = True
    """Use the shipped on-demand list prices of GPU instances where nobody else says a price."""

    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """DEBUG, INFO, WARNING or ERROR."""

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def agents_namespace(self) -> str:
        """Namespace in which agents are looked for."""
        return self.agent_namespace or self.namespace

    @property
    def identity(self) -> str:
        """Holder identity in the Lease: name and address, so that a follower finds the leader."""
        host = f"[{self.pod_ip}]" if ":" in self.pod_ip else self.pod_ip
        return f"{self.pod_name}@{host}:{self.http_port}"


def read_settings() -> OperatorSettings:
    """Read the settings from the environment.

    Raises:
        SettingsError: naming the variable and what is wrong with it.
    """
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            f"OPTIINFRA_{name}: {first['msg']} (got {first.get('input')!r}); correct it and restart"
        ) from error
    if settings.scope is Scope.NAMESPACES and not settings.watch_namespaces:
        raise SettingsError("OPTIINFRA_WATCH_NAMESPACES is empty with scope Namespaces: name at least one namespace")
    if settings.external_metrics_enabled and not (settings.tls_certificate_file and settings.tls_key_file):
        raise SettingsError(
            "OPTIINFRA_EXTERNAL_METRICS_ENABLED needs OPTIINFRA_TLS_CERTIFICATE_FILE and OPTIINFRA_TLS_KEY_FILE"
        )
    if settings.keda_scaler_enabled and not (settings.keda_certificate_file and settings.keda_key_file):
        raise SettingsError(
            "OPTIINFRA_KEDA_SCALER_ENABLED needs OPTIINFRA_KEDA_CERTIFICATE_FILE and OPTIINFRA_KEDA_KEY_FILE"
        )
    _check_prometheus(settings)
    if settings.llm_enabled and settings.llm_key_file is None:
        raise SettingsError("OPTIINFRA_LLM_ENABLED needs OPTIINFRA_LLM_KEY_FILE: mount a Secret and name its file")
    return settings


_MATCHER = r'[a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"[^"\\\n]*"'


def _check_prometheus(settings: OperatorSettings) -> None:
    given = {
        "TOKEN_FILE": settings.prometheus_token_file,
        "PASSWORD_FILE": settings.prometheus_password_file,
        "CA_FILE": settings.prometheus_ca_file,
        "CERTIFICATE_FILE": settings.prometheus_certificate_file,
        "TENANT": settings.prometheus_tenant,
    }
    useless = next((name for name, value in given.items() if value and not settings.prometheus_url), None)
    if useless is not None:
        raise SettingsError(f"OPTIINFRA_PROMETHEUS_{useless} needs OPTIINFRA_PROMETHEUS_URL, which it is for")
    if (settings.prometheus_certificate_file is None) != (settings.prometheus_key_file is None):
        raise SettingsError("OPTIINFRA_PROMETHEUS_CERTIFICATE_FILE and OPTIINFRA_PROMETHEUS_KEY_FILE go together")
    if bool(settings.prometheus_user) != (settings.prometheus_password_file is not None):
        raise SettingsError("OPTIINFRA_PROMETHEUS_USER and OPTIINFRA_PROMETHEUS_PASSWORD_FILE go together")
    if settings.prometheus_token_file is not None and settings.prometheus_password_file is not None:
        raise SettingsError("OPTIINFRA_PROMETHEUS_TOKEN_FILE and _PASSWORD_FILE are both set: give one of them")
    matchers = settings.prometheus_matchers
    if matchers and not re.fullmatch(rf"{_MATCHER}(,{_MATCHER})*", matchers):
        raise SettingsError(
            f'OPTIINFRA_PROMETHEUS_MATCHERS: {matchers[:80]!r} are no label matchers; write them like cluster="prod-1"'
        )
