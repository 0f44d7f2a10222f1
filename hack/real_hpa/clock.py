"""How time is compressed: fifteen seconds of a trace are one second on the wall, for the controller, too.

The controller's own flags shorten its periods: the sync, and the window of the highest recommendation for HPAs without
`behavior`. What an HPA's `behavior` says is whole seconds and shortened by whoever writes it. What is not shortened is
the time that the controller, the API server and the machine need for their own work: it counts fifteen-fold.
"""

from typing import Final

SPEED: Final = 15
"""Seconds of a trace in one second on the wall. Periods in an HPA's `behavior` are whole seconds, and the default
policies of 15 s become 1 s: a higher speed cannot be said."""
TICK_SECONDS: Final = 1.0
"""Wall seconds of one sync of 15 s."""
STABILIZATION_SECONDS: Final = 300 // SPEED
CONTROLLER_FLAGS: Final = (
    f"--horizontal-pod-autoscaler-sync-period={TICK_SECONDS:g}s",
    f"--horizontal-pod-autoscaler-downscale-stabilization={STABILIZATION_SECONDS}s",
    # Fifteen times as many syncs a minute: with the usual 20 requests a second a dozen HPAs would wait for each other.
    "--kube-api-qps=300",
    "--kube-api-burst=600",
    "--concurrent-horizontal-pod-autoscaler-syncs=10",
)
