"""The settings of the node's own processes: pure functions from addresses and folders to files' contents.

What differs from a kubelet's defaults says why. Everything is as the node sees it: its folders are the usual ones, so
that charts and manifests need no change.
"""

from typing import Any

from hack.cluster.components import SERVICE_CIDR

BRIDGE = "node0"
NODE_ADDRESS = "10.88.0.1"
POD_NETWORK = "10.88.0.0/16"
SIMULATED_PODS = "10.89.0.0/16"
KUBELET_PORT = 10250
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "optiinfra.example/pause:1"
PLUGINS = "/usr/lib/cni"
GPU_CLASS = "nvidia"


def containerd(*, network_folder: str, gpu_runtime: str) -> str:
    """Return containerd's configuration (version 2, of containerd 1.6 and newer).

    `gpu_runtime` is the program that runs containers of the RuntimeClass GPU_CLASS; it is looked for when there is one.
    """
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # A machine that is itself a container may not lower the score by which the kernel chooses its victims.
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{network_folder}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{GPU_CLASS}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{GPU_CLASS}.options]
        SystemdCgroup = false
        BinaryName = "{gpu_runtime}"
"""


def pod_network() -> dict[str, Any]:
    """Return the CNI configuration: one bridge, whose own address is the pods' gateway."""
    addresses = {"subnet": POD_NETWORK, "rangeStart": "10.88.1.1", "gateway": NODE_ADDRESS}
    return {
        "cniVersion": "0.4.0",
        "name": "node",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipMasq": False,
                "ipam": {"type": "host-local", "ranges": [[addresses]], "routes": [{"dst": "0.0.0.0/0"}]},
            }
        ],
    }


def kubelet(*, keys: str, certificate: str, key: str) -> dict[str, Any]:
    """Return the kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",  # noqa: S104  of the node's own network namespace
        "port": KUBELET_PORT,
        "tlsCertFile": certificate,
        "tlsPrivateKeyFile": key,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{keys}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",  # there is no systemd in the node
        "failCgroupV1": False,
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # As in containerd: not every machine's root may lower it.
        "oomScoreAdj": 0,
        # The machine's disk belongs to others, too.
        "localStorageCapacityIsolation": False,
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "evictionHard": {"memory.available": "100Mi"},
        "resolvConf": "/etc/resolv.conf",
        # Quick to tell, because tests wait for it.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    }


def kube_proxy(*, kubeconfig: str, node: str) -> dict[str, Any]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": node,
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # Settings of the whole machine: left as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def dns(*, kubeconfig: str) -> str:
    """Return CoreDNS' configuration: the names of Services, and nothing outside of the cluster."""
    return f""".:53 {{
    bind {NODE_ADDRESS}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
    }}
    cache 5
}}
"""


def api_server_flags() -> list[str]:
    """Return what differs for an API server that pods and a kubelet reach; of a flag given twice the last counts."""
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_ADDRESS}",
        "--endpoint-reconciler-type=lease",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
    ]
