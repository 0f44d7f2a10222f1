"""What is needed: each binary with its pinned version, where it is released and which Go module builds it.

The versions here and in `hack/go/*/go.mod` move together. Checksums of downloads come from the publisher
beside the file; a binary whose publisher offers none (kwok) or only an image (the VPA's recommender, KEDA) is built
instead, where go.sum verifies.
"""

import hashlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.36.3"
ETCD = "3.6.8"
KWOK = "0.8.0"
VERTICAL_POD_AUTOSCALER = "1.8.1"
KEDA = "2.21.0"
COREDNS = "1.15.0"
METRICS_SERVER = "0.9.0"
HELM_3 = "3.22.0"
HELM_4 = "4.3.1"
PROMETHEUS = "3.15.0"
VICTORIA_METRICS = "1.140.0"

_MODULES = Path(__file__).resolve().parents[1] / "go"

Version = tuple[int, int, int]
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-[\w.+-]*)?")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class BinaryError(Exception):
    """A binary could not be brought; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """An official release: the file, its checksum file, and the member to take out of an archive."""

    url: str
    checksums: str
    member: str | None = None


@dataclass(frozen=True, kw_only=True)
class Binary:
    """One program: how it tells its version, which versions do, and where a new one comes from."""

    name: str
    version: str
    version_arguments: tuple[str, ...]
    """Empty: it tells its version to nobody without a cluster. Then only one that was built here is believed."""
    minors: tuple[tuple[int, int], ...]
    """Accepted (major, minor) pairs of a binary found outside the cache."""
    module: str
    """Folder below hack/go."""
    package: str
    linker_flags: tuple[str, ...] = ()
    download: Download | None = None
    other_names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """Go's build tags."""
    module_version: str = ""
    """Of the Go module, where it is another one than the program's own: Prometheus 3.15.0 is v0.315.0."""
    on_demand: bool = False
    """Not got with all the others: it takes long to build, and only the long suite or a real node runs it."""

    @property
    def recipe(self) -> str:
        """What a binary in the cache was made to be; another recipe means that it is made again."""
        own = () if not self.package.startswith("./") else (_digest(_MODULES / self.module / self.package),)
        return " ".join((self.name, self.version, *self.linker_flags, *self.tags, *own))

    def accepts(self, version: Version) -> bool:
        """Whether a binary of this version may stand in for the pinned one."""
        return version[:2] in self.minors


def _digest(folder: Path) -> str:
    """Tell a program of ours from what it was before: by its source."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.go")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parse_version(text: str) -> Version | None:
    """Read the first version in a program's answer; a pre-release or vendor suffix makes it unusable.

    Google's kubectl "dispatcher" answers 1.32.4-dispatcher and is not a plain kubectl; the build metadata
    of Helm's releases (+g1a2b3c4) is harmless.
    """
    match = _VERSION.search(text)
    if match is None or match[4] is not None:
        return None
    return int(match[1]), int(match[2]), int(match[3])


def architecture() -> str:
    """Name this machine's architecture as the release files do."""
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        raise BinaryError(f"architecture {machine}: only amd64 and arm64 are supported")
    return _MACHINES[machine]


def _minor(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


def _kubernetes(name: str, *, spread: int, version_arguments: tuple[str, ...], on_demand: bool = False) -> Binary:
    major, minor = _minor(KUBERNETES)
    url = f"https://dl.k8s.io/release/v{KUBERNETES}/bin/linux/{architecture()}/{name}"
    stamp = "-X k8s.io/component-base/version."
    return Binary(
        name=name,
        version=KUBERNETES,
        version_arguments=version_arguments,
        minors=tuple((major, minor + step) for step in range(-spread, spread + 1)),
        module="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        # Without them the server calls itself v0.0.0-master, which breaks Helm and every skew check.
        linker_flags=(
            f"{stamp}gitVersion=v{KUBERNETES}",
            f"{stamp}gitMajor={major}",
            f"{stamp}gitMinor={minor}",
        ),
        download=Download(url=url, checksums=f"{url}.sha256"),
        on_demand=on_demand,
    )


def _etcd() -> Binary:
    release = f"https://github.com/etcd-io/etcd/releases/download/v{ETCD}"
    folder = f"etcd-v{ETCD}-linux-{architecture()}"
    return Binary(
        name="etcd",
        version=ETCD,
        version_arguments=("--version",),
        minors=(_minor(ETCD),),
        module="etcd",
        package="go.etcd.io/etcd/server/v3",
        download=Download(url=f"{release}/{folder}.tar.gz", checksums=f"{release}/SHA256SUMS", member=f"{folder}/etcd"),
    )


def _helm(name: str, version: str, *, other_names: tuple[str, ...]) -> Binary:
    major, minor = _minor(version)
    module = f"helm.sh/helm/v{major}"
    flags = [f"-X {module}/internal/version.version=v{version}"]
    if major == 3:
        # Helm 3 assumes Kubernetes 1.20 in `helm template` and `helm lint` unless its build says otherwise.
        kubernetes_major, kubernetes_minor = _minor(KUBERNETES)
        for package in ("pkg/lint/rules", "pkg/chartutil"):
            flags.append(f"-X {module}/{package}.k8sVersionMajor={kubernetes_major}")
            flags.append(f"-X {module}/{package}.k8sVersionMinor={kubernetes_minor}")
    archive = f"https://get.helm.sh/helm-v{version}-linux-{architecture()}.tar.gz"
    return Binary(
        name=name,
        version=version,
        version_arguments=("version", "--short"),
        minors=tuple((major, each) for each in range(minor - 3, minor + 4)),
        module=name if name != "helm" else "helm3",
        package=f"{module}/cmd/helm",
        linker_flags=tuple(flags),
        download=Download(url=archive, checksums=f"{archive}.sha256sum", member=f"linux-{architecture()}/helm"),
        other_names=other_names,
    )


def _keda(program: str) -> Binary:
    return Binary(
        name=f"keda-{program}",
        version=KEDA,
        version_arguments=(),
        minors=(_minor(KEDA),),
        module="keda",
        package=f"github.com/kedacore/keda/v2/cmd/{program}",
        linker_flags=(f"-X github.com/kedacore/keda/v2/version.Version={KEDA}",),
        on_demand=True,
    )


def _library(version: str) -> str:
    """Return the version of Prometheus' Go module: 3.15.0 is 0.315.0."""
    major, minor, patch = version.split(".")
    return f"0.{major}{int(minor):02}.{patch}"


def _metrics_server(name: str, version: str, *, package: str, module: str, stamp: str = "", told: str = "") -> Binary:
    return Binary(
        name=name,
        version=version,
        version_arguments=(told,) if told else (),
        minors=(_minor(version),),
        module=module,
        package=package,
        linker_flags=(stamp,) if stamp else (),
        # Finding targets in clouds is most of what Prometheus is built of, and nothing that is asked of it here.
        tags=("remove_all_sd",) if module == "prometheus" else (),
        module_version=_library(version) if module == "prometheus" else "",
        on_demand=True,
    )


CATALOGUE: dict[str, Binary] = {
    binary.name: binary
    for binary in (
        _etcd(),
        _kubernetes("kube-apiserver", spread=0, version_arguments=("--version",)),
        _kubernetes("kube-controller-manager", spread=0, version_arguments=("--version",)),
        _kubernetes("kube-scheduler", spread=0, version_arguments=("--version",)),
        _kubernetes("kubectl", spread=1, version_arguments=("version", "--client")),
        # Of a real node (hack/node), which needs root.
        _kubernetes("kubelet", spread=0, version_arguments=("--version",), on_demand=True),
        _kubernetes("kube-proxy", spread=0, version_arguments=("--version",), on_demand=True),
        # Our own set of its plug-ins, so its version is that of the library.
        Binary(
            name="coredns",
            version=COREDNS,
            version_arguments=("-version",),
            minors=(_minor(COREDNS),),
            module="coredns",
            package="./server",
            on_demand=True,
        ),
        Binary(
            name="metrics-server",
            version=METRICS_SERVER,
            version_arguments=("--version",),
            minors=(_minor(METRICS_SERVER),),
            module="metrics-server",
            package="sigs.k8s.io/metrics-server/cmd/metrics-server",
            linker_flags=(f"-X k8s.io/client-go/pkg/version.gitVersion=v{METRICS_SERVER}",),
            on_demand=True,
        ),
        Binary(
            name="kwok",
            version=KWOK,
            version_arguments=("--version",),
            minors=(_minor(KWOK),),
            module="kwok",
            package="sigs.k8s.io/kwok/cmd/kwok",
        ),
        Binary(
            name="vpa-recommender",
            version=VERTICAL_POD_AUTOSCALER,
            # It has no flag for that, but says its version first and then stops for want of a cluster.
            version_arguments=("--kubeconfig=/nonexistent", "--address=localhost:0"),
            minors=(_minor(VERTICAL_POD_AUTOSCALER),),
            module="vpa",
            package="k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender",
        ),
        _keda("operator"),
        _keda("adapter"),
        _metrics_server(
            "prometheus",
            PROMETHEUS,
            package="github.com/prometheus/prometheus/cmd/prometheus",
            module="prometheus",
            stamp=f"-X github.com/prometheus/common/version.Version={PROMETHEUS}",
            told="--version",
        ),
        # Our own, around Prometheus' own writer of blocks: its version is that of the library.
        _metrics_server("prometheus-backfill", PROMETHEUS, package="./backfill", module="prometheus"),
        _metrics_server(
            "victoria-metrics",
            VICTORIA_METRICS,
            package="github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics",
            module="victoriametrics",
            stamp="-X github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version="
            f"victoria-metrics-v{VICTORIA_METRICS}",
            told="--version",
        ),
        _helm("helm", HELM_3, other_names=("helm3",)),
        _helm("helm4", HELM_4, other_names=("helm",)),
    )
}
