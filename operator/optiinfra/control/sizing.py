"""Right-sizing in the round: samples and kills go into a target's histories, and what they come to is proposed.

Histories change only in `hear`, which collect calls before anything is judged. Nothing is proposed while somebody
else's measurement cannot be (`usage_fault`), nor where nobody measures; both are said.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from optiinfra.control.memory import TargetMemory
from optiinfra.control.usage import UsageSample
from optiinfra.control.work import TargetWork
from optiinfra.domain import right_sizing
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import ContainerUsage, ContainerUsageHistory
from optiinfra.domain.units import Bytes, UnixTime
from optiinfra.domain.workload import PodFacts

MOST_CONTAINERS: Final = 32
"""Containers of one target whose use is remembered."""
_FORGOTTEN: Final = 14 * 86_400.0
"""Seconds after which a container that is no longer measured is forgotten."""


def hear(memory: TargetMemory, samples: Iterable[UsageSample], pods: Sequence[PodFacts], *, now: UnixTime) -> None:
    """Take what was measured, and who was killed for memory."""
    for sample in samples:
        history = memory.usage.get(sample.container)
        if history is None:
            if len(memory.usage) >= MOST_CONTAINERS:
                continue
            history = memory.usage[sample.container] = ContainerUsageHistory()
        history.observe(ContainerUsage(sample.time, sample.cpu_cores, sample.memory_bytes))
    silent = [name for name, known in memory.usage.items() if known.last and now - known.last > _FORGOTTEN]
    for name in silent:
        del memory.usage[name]
        memory.kills.pop(name, None)
    kills = sorted((kill for pod in pods for kill in pod.memory_kills), key=lambda kill: kill.time)
    for kill in kills:
        history = memory.usage.get(kill.container)
        # A kill without a limit is the node's: it says nothing about what the container would have needed.
        if history is None or kill.time <= memory.kills.get(kill.container, 0.0) or isinstance(kill.limit, Unknown):
            continue
        memory.kills[kill.container] = kill.time
        history.observe_out_of_memory(time=kill.time, used=Bytes(kill.limit))


def advise(target: TargetWork) -> list[Proposal | Refusal]:
    """Return requests for the containers of a target, or why there are none."""
    facts, usage = target.facts, target.memory.usage
    assert facts is not None
    containers = next((pod.containers for pod in facts.pods if pod.containers), ())
    if not containers:
        return []
    if target.usage_fault:
        text = f"nothing is sized on measurements that cannot be: {target.usage_fault}"
        return [Refusal(RecommendationType.RESOURCES, "UsageInvalid", text)]
    if not usage:
        text = "container use is not measured: the cluster serves no metrics.k8s.io"
        return [Refusal(RecommendationType.RESOURCES, str(UnknownReason.NOT_MEASURED), text)]
    answers: list[Proposal | Refusal] = []
    for container in containers:
        history = usage.get(container.name)
        if history is None:
            text = f"containers[{container.name}]: no use was measured"
            answers.append(Refusal(RecommendationType.RESOURCES, str(UnknownReason.NOT_MEASURED), text))
            continue
        answers += right_sizing.recommend(
            container,
            history,
            replicas=max(1, facts.ready_replicas),
            containers=len(containers),
            model_server=container.name == target.settings.container,
        )
    return answers
