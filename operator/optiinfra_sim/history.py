"""A fleet's past as Prometheus would have it: everything that `history_fleet` played, by every exporter, and the truth.

    fleet = build(plan("small"), end=time.time())
    for one in every_series(fleet): ...

`optiinfra_simulated` is 1 throughout: nothing of it must pass for a measurement. `truth_document` is what was true, for
whoever judges a report.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from optiinfra_sim.history_ballast import ballast
from optiinfra_sim.history_cluster import cluster_series
from optiinfra_sim.history_engines import engine_series
from optiinfra_sim.history_fleet import STEP_S, Fleet
from optiinfra_sim.history_gpus import gpu_series
from optiinfra_sim.history_models import CLUSTERS, GPU_HOUR
from optiinfra_sim.history_series import SIMULATED, Series, series

__all__ = ["ballast", "every_series", "truth_document"]


def every_series(fleet: Fleet) -> Iterator[Series]:
    """Yield everything that was played, at every step of the grid."""
    for cluster in CLUSTERS:
        yield series(SIMULATED, {"cluster": cluster, "job": "optiinfra-sim"}, np.ones(len(fleet.times)))
    for pod in fleet.pods:
        yield from engine_series(pod, seed=fleet.seed)
    yield from gpu_series(fleet)
    yield from cluster_series(fleet)


def truth_document(fleet: Fleet) -> dict[str, Any]:
    """Return what is true, as JSON has it. Amounts are USD and GPU-hours over the whole time."""
    return {
        "simulated": True,
        "seed": fleet.seed,
        "start": float(fleet.times[0]),
        "end": float(fleet.times[-1]),
        "step_s": STEP_S,
        "gpu_hour": GPU_HOUR,
        "gpus": len(fleet.gpus),
        "gpu_hours": fleet.gpu_hours,
        "cost": fleet.cost,
        "models": [
            {
                "key": one.key,
                "cluster": one.cluster,
                "label": one.label.value,
                "gpu_hours": one.gpu_hours,
                "cost": one.cost,
                "needed_gpu_hours": one.needed_gpu_hours,
                "least_gpu_hours": one.least_gpu_hours,
                "avoidable_gpu_hours": one.avoidable_gpu_hours,
            }
            for one in fleet.truths()
        ],
    }
