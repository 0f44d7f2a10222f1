"""The published recommender of the Vertical Pod Autoscaler, run for real over doubles of what it measures with.

`play` holds it together: real VPA objects on a real API server, pods that KWOK starts, and the unmodified program. What
is doubled is where it gets usage from: a Prometheus for its history (`Prometheus`) and metrics-server for what comes
after (`MetricsApi`), both over `Series` of a trace. No clock is bent, because both sources tell the time of a sample
with the sample. Nothing here judges a recommendation.
"""

from hack.real_vpa.series import Sample, Series
from hack.real_vpa.stage import KILL_SECONDS, Look, Played, play, vpa_cluster
from hack.real_vpa.workloads import Kill, Recommended, Workload

__all__ = [
    "KILL_SECONDS",
    "Kill",
    "Look",
    "Played",
    "Recommended",
    "Sample",
    "Series",
    "Workload",
    "play",
    "vpa_cluster",
]
