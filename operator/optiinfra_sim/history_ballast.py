"""What exporters show besides what is played: most of what a server in a cluster holds, and nobody here reads.

An engine's page, node-exporter's, cAdvisor's and kube-state-metrics' are mostly series that no report asks for. Left
out, a server would look far smaller than the one in a real cluster, and its memory would say nothing. So they exist, as
constants, once an hour in the past (`STRIDE`), under the names that the real pages have or, where a page has very many
(a core's modes, a disk's counters), under some of them with more labels. How many there are of each is stated below.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from optiinfra_sim.history_fleet import Fleet
from optiinfra_sim.history_series import Series, series

STRIDE: Final = 60
"""Steps of the grid from one value to the next: an hour."""
ENGINE: Final = (
    ("vllm:request_prompt_tokens_bucket", 30),
    ("vllm:request_generation_tokens_bucket", 30),
    ("vllm:iteration_tokens_total_bucket", 20),
    ("vllm:request_max_num_generation_tokens_bucket", 30),
    ("vllm:request_inference_time_seconds_bucket", 24),
    ("vllm:request_prefill_time_seconds_bucket", 24),
    ("vllm:request_decode_time_seconds_bucket", 24),
    ("http_request_duration_highr_seconds_bucket", 25),
    ("http_request_duration_seconds_bucket", 20),
    ("python_gc_objects_collected_total", 3),
    ("process_resident_memory_bytes", 1),
)
"""A pod: 231 of some 380 that a page of vLLM 0.32 has beyond what is played."""
NODE: Final = (
    ("node_cpu_guest_seconds_total", 384),
    ("node_softnet_processed_total", 192),
    ("node_schedstat_running_seconds_total", 192),
    ("node_disk_read_bytes_total", 60),
    ("node_network_receive_bytes_total", 80),
    ("node_filesystem_size_bytes", 60),
    ("node_netstat_Tcp_ActiveOpens", 60),
    ("kubelet_runtime_operations_duration_seconds_bucket", 400),
)
"""A node: about 1,400; a real one of 192 cores has two to three thousand."""
POD: Final = (
    ("container_network_receive_bytes_total", 6),
    ("container_fs_reads_bytes_total", 12),
    ("container_memory_rss", 2),
    ("container_memory_cache", 2),
    ("container_blkio_device_usage_total", 12),
    ("kube_pod_status_reason", 5),
    ("kube_pod_tolerations", 4),
    ("kube_pod_status_condition_time", 12),
)
"""A pod of any kind: 55."""


def ballast(fleet: Fleet) -> Iterator[Series]:
    """Yield it: every engine's pod that lives at the end, every node, some pods of each node."""
    points = len(fleet.times)
    values = np.arange(0, points, STRIDE, dtype=np.float64)
    for pod in fleet.pods:
        if pod.last == points:
            plan = pod.model.plan
            labels = {"cluster": plan.cluster, "namespace": plan.namespace, "pod": pod.name, "job": "engines"}
            yield from _family(ENGINE, {**labels, "model_name": plan.name}, values)
            yield from _family(POD, labels, values)
    cluster_of = {gpu.node: gpu.cluster for gpu in fleet.gpus}
    for node in fleet.nodes:
        labels = {"cluster": cluster_of[node], "instance": f"{node}:9100", "job": "node-exporter"}
        yield from _family(NODE, labels, values)
        for number in range(8):
            own = {**labels, "namespace": "kube-system", "pod": f"daemon-{number}-{node}", "job": "kubelet"}
            yield from _family(POD, own, values)


def _family(family: tuple[tuple[str, int], ...], labels: Mapping[str, str], values: np.ndarray) -> Iterator[Series]:
    for name, count in family:
        for number in range(count):
            yield series(name, {**labels, "part": str(number)}, values + number, stride=STRIDE)
