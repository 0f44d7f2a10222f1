"""Where the API server is and how to prove who we are.

The official client reads kubeconfigs, exec plug-ins and service account tokens; nothing else of it is used, because
its typed API groups cost 80 MiB. Tokens are refreshed once a minute from where they came (the kubelet rotates them)
and at once after a 401. Proxies come from the kubeconfig only: the environment's are not read, nor is .netrc.
"""

import asyncio
import inspect
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from optiinfra.cluster.errors import Unconfigured

REFRESH_PERIOD_S = 60.0

# The library's loaders carry no types.
_IN_CLUSTER: Any = InClusterConfigLoader
_KUBECONFIG: Any = KubeConfigLoader
_MERGER: Any = KubeConfigMerger


class Credentials:
    """Host, TLS context and the current Authorization header."""

    def __init__(self, kubeconfig: str | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kubeconfig = kubeconfig
        self._clock = clock
        self._configuration: Any = Configuration()
        self._loader: Any = None
        self._loaded_at = float("-inf")
        self._lock = asyncio.Lock()
        self.host = ""
        self.ssl_context: ssl.SSLContext | None = None

    async def load(self) -> None:
        """Read the configuration for the first time; `Unconfigured` says what is missing."""
        try:
            self._loader = self._find()
            await self._reload()
            configuration = self._configuration
            self.host = str(configuration.host).rstrip("/")
            if self.host.startswith("https:"):
                self.ssl_context = _tls_context(configuration)
        except (ConfigException, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            source = self._kubeconfig or "service account"
            raise Unconfigured(f"cannot read the credentials ({source}): {error}") from error

    def _find(self) -> Any:
        path = self._kubeconfig
        if path is None and SERVICE_HOST_ENV_NAME in os.environ and Path(SERVICE_TOKEN_FILENAME).is_file():
            return _IN_CLUSTER(
                token_filename=SERVICE_TOKEN_FILENAME, cert_filename=SERVICE_CERT_FILENAME, try_refresh_token=False
            )
        path = path or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        self._kubeconfig = path
        if not any(Path(part).is_file() for part in path.split(os.pathsep)):
            raise Unconfigured(f"no service account is mounted and {path} does not exist; set KUBECONFIG")
        return _KUBECONFIG(config_dict=_MERGER(path).config, config_base_path=None)

    async def _reload(self) -> None:
        loading = self._loader.load_and_set(self._configuration)
        if inspect.isawaitable(loading):
            await loading
        self._loaded_at = self._clock()

    async def headers(self, *, force: bool = False) -> dict[str, str]:
        """Return the Authorization header as it is now; empty when a client certificate identifies us."""
        async with self._lock:
            if force or self._clock() - self._loaded_at >= REFRESH_PERIOD_S:
                try:
                    await self._reload()
                except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
                    raise Unconfigured(f"cannot refresh the credentials: {error}") from error
            settings = await self._configuration.auth_settings()
        bearer = settings.get("BearerToken")
        # A token file may end in a newline, which would split the header.
        return {"Authorization": str(bearer["value"]).strip()} if bearer else {}

    @property
    def proxy(self) -> str | None:
        """The kubeconfig's proxy-url."""
        return self._configuration.proxy or None

    @property
    def server_hostname(self) -> str | None:
        """The kubeconfig's tls-server-name."""
        return self._configuration.tls_server_name or None


def _tls_context(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    # Cluster certificate authorities made by kubeadm, k3s and others miss extensions that strict checking wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
