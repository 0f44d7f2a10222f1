"""A throw-away Kubernetes control plane on loopback, for the demo and the tests.

`python -m hack.cluster up|down|status`, or `with Cluster() as cluster:`. Real etcd, kube-apiserver,
controller-manager and scheduler; KWOK plays nodes and pods, so no root and no images are needed. It is
not a cluster to keep anything in: etcd does not sync to disk.
"""

from hack.cluster.cluster import Cluster
from hack.cluster.errors import ClusterError
from hack.cluster.nodes import DEFAULT_NODES, Node

__all__ = ["DEFAULT_NODES", "Cluster", "ClusterError", "Node"]
