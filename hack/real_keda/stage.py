"""Starts KEDA on a cluster and takes it away again.

    with RealKeda(cluster, folder=folder, port=free_port):
        cluster.kubectl("apply", "-f", "scaled-object.yaml")

KEDA owns `external.metrics.k8s.io` while it runs, as in a real cluster. Certificates come from here, since KEDA's own
rotation restarts its pods, of which there are none.
"""

import base64
import functools
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from hack.cluster import Cluster
from hack.cluster.certificates import Authority
from hack.cluster.errors import ApiError, ClusterError
from hack.demo.programs import Programs

CRDS: Final = Path(__file__).with_name("crds.yaml")
NAMESPACE: Final = "keda"
OPERATOR: Final = "keda-operator"
ADAPTER: Final = "keda-adapter"
READY_SECONDS: Final = 180.0
_SERVICE: Final = "keda-metrics-apiserver"
_API: Final = "v1beta1.external.metrics.k8s.io"
_UNUSED: Final = (
    ("ScaledJob", "scaledjobs", "keda.sh", "Namespaced"),
    ("CloudEventSource", "cloudeventsources", "eventing.keda.sh", "Namespaced"),
    ("ClusterCloudEventSource", "clustercloudeventsources", "eventing.keda.sh", "Cluster"),
)
"""Kinds that KEDA's controllers watch; none of them is ever made here."""


class RealKeda:
    """KEDA's two processes; a context manager. `port` gives a free port of loopback."""

    def __init__(self, cluster: Cluster, *, folder: Path, port: Callable[[], int]) -> None:
        self._cluster, self._folder = cluster, folder
        self._programs = Programs(folder / "programs")
        self._ports = {name: port() for name in ("metrics", "probes", "service", "adapter-metrics", "adapter")}

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._start()
            self._wait("KEDA's external metrics", self._served)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._programs.stop()
        for path in (
            f"/apis/apiregistration.k8s.io/v1/apiservices/{_API}",
            f"/api/v1/namespaces/{NAMESPACE}",
        ):
            with suppress(ApiError):
                self._cluster.request("DELETE", path)

    def log(self, name: str) -> Path:
        """Return the log of OPERATOR or ADAPTER."""
        return self._programs.log(name)

    def _prepare(self) -> None:
        self._cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        unused = yaml.safe_dump_all([_named_only(*each) for each in _UNUSED])
        self._cluster.kubectl("apply", "--server-side", "--filename=-", input=unused)
        self._cluster.kubectl("apply", "--server-side", f"--filename={CRDS}")
        for path in ("keda.sh/v1alpha1/scaledobjects", "keda.sh/v1alpha1/scaledjobs"):
            self._wait(path, functools.partial(self._answers, f"/apis/{path}"))

    def _certificates(self, folder: Path, *, serves: tuple[str, ...] = ()) -> Path:
        """Make the folder that KEDA calls its certificate folder: ca.crt, tls.crt, tls.key."""
        folder.mkdir(parents=True, exist_ok=True)
        pair = self._authority.issue(folder.name, folder.name, serves=serves)
        shutil.copy(self._authority.pair.certificate, folder / "ca.crt")
        shutil.copy(pair.certificate, folder / "tls.crt")
        shutil.copy(pair.key, folder / "tls.key")
        return folder

    def _start(self) -> None:
        made = self._folder / "authority"
        made.mkdir(parents=True)
        self._authority = Authority(made, "keda")
        kubeconfig = self._cluster.kubeconfig_for(OPERATOR, ("system:masters",))
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "WATCH_NAMESPACE": "",
            "POD_NAMESPACE": NAMESPACE,
            "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
        }
        service = f"localhost:{self._ports['service']}"
        self._programs.start(
            OPERATOR,
            [
                str(self._cluster.binary(OPERATOR)),
                f"--metrics-bind-address=127.0.0.1:{self._ports['metrics']}",
                f"--health-probe-bind-address=127.0.0.1:{self._ports['probes']}",
                f"--metrics-service-bind-address=127.0.0.1:{self._ports['service']}",
                f"--cert-dir={self._certificates(self._folder / 'keda-server', serves=('localhost',))}",
                f"--ca-dir={self._folder / 'authority'}",
                "--enable-webhook-patching=false",
                "--enable-apiservice-patching=false",
            ],
            environment,
        )
        pair = self._cluster.serving_certificate(f"{_SERVICE}.{NAMESPACE}.svc")
        self._programs.start(
            ADAPTER,
            [
                str(self._cluster.binary(ADAPTER)),
                "--bind-address=127.0.0.1",
                f"--secure-port={self._ports['adapter']}",
                f"--port={self._ports['adapter-metrics']}",
                f"--metrics-service-address={service}",
                f"--cert-dir={self._certificates(self._folder / 'keda-client')}",
                f"--tls-cert-file={pair.certificate}",
                f"--tls-private-key-file={pair.key}",
                *(f"--{name}-kubeconfig={kubeconfig}" for name in ("lister", "authentication", "authorization")),
            ],
            environment,
        )
        self._register()

    def _register(self) -> None:
        port = self._ports["adapter"]
        self._cluster.request(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/services",
            {
                "metadata": {"name": _SERVICE},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            },
        )
        self._cluster.request(
            "POST",
            "/apis/apiregistration.k8s.io/v1/apiservices",
            {
                "metadata": {"name": _API},
                "spec": {
                    "group": "external.metrics.k8s.io",
                    "version": "v1beta1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "service": {"name": _SERVICE, "namespace": NAMESPACE, "port": port},
                    "caBundle": base64.b64encode(self._cluster.ca.read_bytes()).decode(),
                },
            },
        )

    def _served(self) -> bool:
        self._programs.demand()
        return self._answers("/apis/external.metrics.k8s.io/v1beta1")

    def _answers(self, path: str) -> bool:
        try:
            self._cluster.request("GET", path)
        except (ApiError, ClusterError):
            return False
        return True

    @staticmethod
    def _wait(what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not is_there():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not there after {READY_SECONDS:.0f} s")
            time.sleep(0.2)


def _named_only(kind: str, plural: str, group: str, scope: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }
