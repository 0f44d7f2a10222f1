"""LeaderWorkerSet groups: several pods that are one replica, of which the leader serves the page.

A worker that serves a page too shows the same requests again (every rank of a model does): counted beside its leader
they would double. Pods are named by the controller: NAME-GROUP is a leader, NAME-GROUP-WORKER a worker; the numbers
are all that is needed, and a pod that is named otherwise is a replica of its own. `replicas_expected` of such a
workload is the number of groups, which is what its scale subresource counts.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from optiinfra.domain.readings import EngineReading
from optiinfra.domain.workload import WorkloadFacts

T = TypeVar("T")
KIND: Final = "LeaderWorkerSet"


def group_of(pod: str, *, workload: str) -> tuple[str, int]:
    """Return the group that a pod belongs to, and its place in it: 0 for the leader, or for a pod of no group."""
    rest = pod.removeprefix(f"{workload}-")
    numbers = rest.split("-")
    if rest == pod or not 1 <= len(numbers) <= 2 or not all(one.isascii() and one.isdigit() for one in numbers):
        return pod, 0
    return f"{workload}-{numbers[0]}", int(numbers[1]) if len(numbers) == 2 else 0


def one_page_a_group(pages: Mapping[str, T], *, workload: str) -> dict[str, T]:
    """Keep the pages of each group's leader; of a group whose leader serves none, those of its first worker."""
    chosen: dict[str, tuple[int, str]] = {}
    for pod in pages:
        group, place = group_of(pod, workload=workload)
        if group not in chosen or place < chosen[group][0]:
            chosen[group] = (place, pod)
    return {pod: pages[pod] for _, pod in chosen.values()}


def counted_pages(facts: WorkloadFacts) -> Mapping[str, tuple[EngineReading, ...]]:
    """Return the pages of a workload that are to be added up: one pod's of each group, or those of every pod."""
    return one_page_a_group(facts.pages, workload=facts.name) if facts.kind == KIND else facts.pages


def count_groups(pods: Mapping[str, T] | set[str] | frozenset[str], *, workload: str) -> int:
    """Return how many groups a workload's pods form."""
    return len({group_of(pod, workload=workload)[0] for pod in pods})
