"""Real metrics servers on loopback, loaded with a fleet's past: what the report is proven on.

    with Loaded("prometheus", fleet="small") as loaded: print(loaded.server.address)

Debian's Prometheus 2.42 (a pinned package), Prometheus 3 and VictoriaMetrics (built from pinned Go modules). The past
is played by `optiinfra_sim.history`; it is simulated, and every server says so (`optiinfra_simulated`).
"""

from hack.prometheus.loaded import SERVERS, Loaded, ServerError
from hack.prometheus.server import Memory, Server

__all__ = ["SERVERS", "Loaded", "Memory", "Server", "ServerError"]
