"""The command lines of the control plane: pure functions from settings to arguments, nothing is started.

Kubernetes' defaults stay as they are wherever a test could notice; what differs says why. No test may
depend on a flag that a managed cluster would not have, except the 5 s HPA period, which saves waiting, and those
that play hours of a trace in minutes: they give the controller-manager flags of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.addresses import Addresses
from hack.cluster.certificates import FRONT_PROXY_USER

HPA_SYNC = "5s"
KWOK_NODE_ANNOTATION = "kwok.x-k8s.io/node"
SERVICE_CIDR = "10.96.0.0/16"
STAGES = Path(__file__).with_name("stages.yaml")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the state of one cluster lies."""

    folder: Path

    @property
    def keys(self) -> Path:
        """Certificates, keys and kubeconfigs."""
        return self.folder / "keys"

    @property
    def logs(self) -> Path:
        """One log for each process, and the audit log."""
        return self.folder / "logs"

    @property
    def etcd(self) -> Path:
        """The data of etcd."""
        return self.folder / "etcd"

    @property
    def audit_log(self) -> Path:
        """One JSON object for each request, when asked for."""
        return self.logs / "audit.log"

    @property
    def audit_policy(self) -> Path:
        """The policy of the audit log."""
        return self.folder / "audit-policy.json"

    def kubeconfig(self, name: str) -> Path:
        """Return the path of a named kubeconfig."""
        return self.keys / f"{name}.kubeconfig"


def commands(
    binary: Callable[[str], Path],
    *,
    addresses: Addresses,
    files: Files,
    controllers: bool,
    kwok: bool,
    audit: bool,
    controller_flags: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return the commands of the chosen processes, in the order of starting."""
    result = {
        "etcd": etcd(binary("etcd"), addresses=addresses, files=files),
        "kube-apiserver": api_server(binary("kube-apiserver"), addresses=addresses, files=files, audit=audit),
    }
    if controllers:
        manager, scheduling = "kube-controller-manager", "kube-scheduler"
        result[manager] = controller_manager(binary(manager), addresses=addresses, files=files, flags=controller_flags)
        result[scheduling] = scheduler(binary(scheduling), addresses=addresses, files=files)
    if kwok:
        result["kwok"] = simulated_kubelets(binary("kwok"), addresses=addresses, kubeconfig=files.kubeconfig("kwok"))
    return result


def etcd(binary: Path, *, addresses: Addresses, files: Files) -> list[str]:
    """Return the command of etcd, without syncing to disk: its data is thrown away anyway."""
    client = f"http://127.0.0.1:{addresses.etcd}"
    peer = f"http://127.0.0.1:{addresses.etcd_peer}"
    return [
        str(binary),
        f"--name={addresses.etcd_name}",
        f"--data-dir={files.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={addresses.etcd_name}={peer}",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--logger=zap",
        "--log-level=warn",
    ]


def api_server(binary: Path, *, addresses: Addresses, files: Files, audit: bool) -> list[str]:
    """Return the command of kube-apiserver with real admission, RBAC and aggregation."""
    keys = files.keys
    arguments = [
        str(binary),
        f"--etcd-servers=http://127.0.0.1:{addresses.etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.api}",
        f"--cert-dir={keys}",
        f"--tls-cert-file={keys / 'api-server.crt'}",
        f"--tls-private-key-file={keys / 'api-server.key'}",
        f"--client-ca-file={keys / 'ca.crt'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys / 'service-account.key'}",
        f"--service-account-signing-key-file={keys / 'service-account.key'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allow-privileged=true",
        f"--requestheader-client-ca-file={keys / 'front-proxy-ca.crt'}",
        f"--requestheader-allowed-names={FRONT_PROXY_USER}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys / 'front-proxy.crt'}",
        f"--proxy-client-key-file={keys / 'front-proxy.key'}",
        f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}",
        f"--kubelet-client-key={keys / 'kubelet-client.key'}",
        # An endpoint on loopback is refused, and nothing here asks for the kubernetes Service.
        "--endpoint-reconciler-type=none",
    ]
    if audit:
        arguments += [
            f"--audit-policy-file={files.audit_policy}",
            f"--audit-log-path={files.audit_log}",
            "--audit-log-format=json",
            "--audit-log-maxsize=256",
            "--audit-log-maxbackup=1",
        ]
    return arguments


def controller_manager(binary: Path, *, addresses: Addresses, files: Files, flags: Sequence[str] = ()) -> list[str]:
    """Return the command of kube-controller-manager; it signs tokens and runs every usual controller.

    Of a flag that is given twice the last one counts: `flags` may replace those above them.
    """
    kubeconfig = files.kubeconfig("controller-manager")
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.controllers}",
        f"--cert-dir={files.folder / 'controller-manager'}",
        f"--service-account-private-key-file={files.keys / 'service-account.key'}",
        f"--root-ca-file={files.keys / 'ca.crt'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        f"--horizontal-pod-autoscaler-sync-period={HPA_SYNC}",
        *flags,
    ]


def scheduler(binary: Path, *, addresses: Addresses, files: Files) -> list[str]:
    """Return the command of kube-scheduler."""
    kubeconfig = files.kubeconfig("scheduler")
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.scheduler}",
        f"--cert-dir={files.folder / 'scheduler'}",
        "--leader-elect=false",
    ]


def simulated_kubelets(binary: Path, *, addresses: Addresses, kubeconfig: Path) -> list[str]:
    """Return the command of KWOK, which plays the kubelets of annotated nodes."""
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--config={STAGES}",
        f"--manage-nodes-with-annotation-selector={KWOK_NODE_ANNOTATION}=fake",
        f"--cidr={addresses.pod_cidr}",
        "--node-ip=127.0.0.1",
        f"--node-port={addresses.kwok}",
        f"--server-address=127.0.0.1:{addresses.kwok}",
        "--node-lease-duration-seconds=40",
    ]


def audit_policy() -> dict[str, object]:
    """Return a policy that keeps who did what to which object, and no bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
