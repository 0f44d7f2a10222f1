"""A real Kubernetes node on this machine, without images from a registry: `python -m hack.node up|down|status`.

The control plane of `hack.cluster` with a real kubelet, containerd, runc and kube-proxy, in namespaces of their own:
the node has its own processes, mounts, network, host name and cgroup root, as a node of kind has, but its root file
system is the machine's own, so that nothing has to be pulled. Nothing is installed and no setting of the machine is
changed: Debian packages are unpacked into the cache, and what a node wants to write to the machine goes to folders of
its own. It needs root and cgroups, and refuses where it has them not. It is for tests of this project and nothing else:
etcd does not sync, the administrator's key lies in the state directory.

Nothing is imported here: two modules are started as programs for every process of the node, and have to be quick.
"""
