"""How pods of some workloads came up, put together from what kube-state-metrics told of each, hour by hour.

A pod counts whose creation lies in the time that was read: of an older one nobody knows whether it became ready then
for the first time. Workers of a group are left out, because its leader is ready last. What is not told stays unknown.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import PodFacts
from optiinfra.engines.promql_history import StartMoment

START_STEP: Final = Seconds(3600.0)
MOST_PODS: Final = 64
"""Of one workload, the newest; `StartUpMemory` keeps half as many."""
_WORKER: Final = re.compile(r"-[0-9]+-[0-9]+$")


@dataclass(slots=True)
class Starts:
    """What was told so far. `owner` gives the row of a pod's workload by namespace and name; None: nobody's."""

    owner: Callable[[str, str], int | None]
    _told: dict[tuple[int, str, str], dict[StartMoment, float]] = field(default_factory=dict)

    def add(self, moment: StartMoment, labels: Collection[tuple[str, str]], values: npt.NDArray[np.float64]) -> None:
        """Take one series of one moment."""
        given = dict(labels)
        name, namespace = given.get("pod", ""), given.get("namespace", "")
        row = self.owner(namespace, name)
        known = values[np.isfinite(values)]
        if row is None or _WORKER.search(name) or not known.size:
            return
        found = self._told.setdefault((row, name, given.get("uid") or f"{namespace}/{name}"), {})
        # The first time that it was ready, and the most that was restarted.
        found[moment] = float(known.max() if moment is StartMoment.RESTARTS else known.min())

    def by_row(self, rows: int, *, since: UnixTime) -> list[tuple[PodFacts, ...]]:
        """Return the pods that became ready, by workload, the newest at most `MOST_PODS`."""
        found: list[list[PodFacts]] = [[] for _ in range(rows)]
        for (row, name, uid), moments in self._told.items():
            created, ready = moments.get(StartMoment.CREATED, 0.0), moments.get(StartMoment.READY, 0.0)
            # Without the count of restarts nobody knows whether it was the first time.
            if created <= since or ready < created or StartMoment.RESTARTS not in moments:
                continue
            found[row].append(_pod(name, uid, moments))
        return [tuple(sorted(pods, key=lambda pod: pod.created)[-MOST_PODS:]) for pods in found]


def _pod(name: str, uid: str, moments: dict[StartMoment, float]) -> PodFacts:
    scheduled = moments.get(StartMoment.SCHEDULED, 0.0)
    return PodFacts(
        name=name,
        uid=uid,
        ip="",
        node="",
        phase="Running",
        ready=True,
        terminating=False,
        created=UnixTime(moments[StartMoment.CREATED]),
        became_ready=UnixTime(moments[StartMoment.READY]),
        gpus=0.0,
        scheduled=UnixTime(scheduled) if scheduled >= moments[StartMoment.CREATED] else None,
        restarts=round(moments[StartMoment.RESTARTS]),
    )
