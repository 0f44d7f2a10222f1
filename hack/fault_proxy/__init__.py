"""A TLS proxy between the operator and an API server that does on command what networks and servers do by accident.

    with FaultProxy(cluster, folder=tmp_path) as proxy:
        operator = installation.operator(OPTIINFRA_KUBECONFIG=str(proxy.kubeconfig(installation.kubeconfig())))
        proxy.kill = operator.kill
        proxy.rules = [Rule(Crash(after=True), Match(writes=True), skip=4, times=1)]   # die after the fifth write

It speaks HTTP/1.1 on both sides, terminates TLS with a certificate authority of its own, passes credentials on as they
are, and counts what it saw and did. Only tests use it: it decides nothing by itself, and without rules it is a wire.
"""

from hack.fault_proxy.calls import Call
from hack.fault_proxy.proxy import FaultProxy
from hack.fault_proxy.rules import (
    Crash,
    Cut,
    Fault,
    Hang,
    Hold,
    Match,
    Refuse,
    Rule,
    Slow,
    Stale,
    Unheard,
    WatchDelayed,
    WatchDropped,
    WatchGone,
    WatchMerged,
    WatchSilent,
)

__all__ = [
    "Call",
    "Crash",
    "Cut",
    "Fault",
    "FaultProxy",
    "Hang",
    "Hold",
    "Match",
    "Refuse",
    "Rule",
    "Slow",
    "Stale",
    "Unheard",
    "WatchDelayed",
    "WatchDropped",
    "WatchGone",
    "WatchMerged",
    "WatchSilent",
]
