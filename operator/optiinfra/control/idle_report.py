"""The idle GPUs of a round as the status of a ClusterResourceOptimization: pure, bounded, the dearest first."""

from optiinfra.api.scalars import Time
from optiinfra.api.status_from import cut, to_measured
from optiinfra.api.v1alpha1.idle_status import MAX_HOLDERS, MAX_IDLE_GPUS, IdleGpusStatus, IdleGpuStatus
from optiinfra.control.work import ClusterWork
from optiinfra.domain.idle.states import IDLE_STATES, GpuVerdict
from optiinfra.domain.readings import Unknown

_STEP = 0.05


def idle_status(cluster: ClusterWork) -> IdleGpusStatus | None:
    """List the GPUs that were idle for the whole window; None where none was."""
    idle = [one for one in cluster.verdicts if one.uuid in cluster.idle and one.state in IDLE_STATES]
    if not idle:
        return None
    idle.sort(key=_order)
    listed = tuple(_gpu(one) for one in idle[:MAX_IDLE_GPUS])
    return IdleGpusStatus(gpus=listed, left_out=len(idle) - len(listed))


def _order(one: GpuVerdict) -> tuple[float, float, str, str]:
    cost = 0.0 if isinstance(one.cost_per_hour, Unknown) else one.cost_per_hour
    since = float("inf") if isinstance(one.since, Unknown) else float(one.since)
    return -cost, since, one.node, one.uuid


def _gpu(one: GpuVerdict) -> IdleGpuStatus:
    assert not isinstance(one.since, Unknown)  # idle states have it
    cost = one.cost_per_hour
    return IdleGpuStatus(
        uuid=cut(one.uuid, 128),
        node=one.node,
        model=cut(one.model, 128),
        state=str(one.state),
        holders=tuple(cut(pod, 320) for pod in one.holders[:MAX_HOLDERS]),
        since=Time.of(one.since),
        per_hour=to_measured(cost),
        confidence=round(round(one.confidence / _STEP) * _STEP, 2),
    )
