"""The real HorizontalPodAutoscaler controller as a party that decides, on a cluster whose clock runs faster.

`Stage` holds it together: `RealScalers` makes Deployments on simulated nodes and HPAs over them, `MetricsApi` answers
the controller's questions for external metrics. What the answers are is the caller's matter. Nothing here judges a
decision, and no part of the controller is imitated: kube-controller-manager runs with its own flags, only the periods
are shorter.
"""

from hack.real_hpa.clock import CONTROLLER_FLAGS, SPEED, TICK_SECONDS
from hack.real_hpa.metrics_api import MetricsApi, Question
from hack.real_hpa.scalers import DEFAULT_BEHAVIOR, Behavior, RealScalers, Seen
from hack.real_hpa.stage import Stage, fast_cluster

__all__ = [
    "CONTROLLER_FLAGS",
    "DEFAULT_BEHAVIOR",
    "SPEED",
    "TICK_SECONDS",
    "Behavior",
    "MetricsApi",
    "Question",
    "RealScalers",
    "Seen",
    "Stage",
    "fast_cluster",
]
