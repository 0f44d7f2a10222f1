"""Noise for what the node agent reads from others: the kubelet, the kernel, a file. By hand: `python -m hack.fuzz`."""
