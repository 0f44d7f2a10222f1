"""The kill switch: an annotation on the operator's Lease that stops every write into users' objects.

It sits on the Lease because the leader reads that every two seconds anyway and needs no further permission for it. It
is turned on by the chart's pre-delete Job or by a person with kubectl; nothing in this program ever turns it off.
"""

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.errors import Absent

ANNOTATION = "optiinfra.io/kill-switch"


class KillSwitch:
    """Turns the switch on."""

    def __init__(self, client: KubernetesClient, *, namespace: str, lease: str) -> None:
        self._client = client
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease}"

    async def turn_on(self) -> bool:
        """Turn it on; False when there is no Lease, so that no operator runs here that could read it."""
        body = {"metadata": {"annotations": {ANNOTATION: "true"}}}
        try:
            await self._client.patch(self._path, body, kind=PatchKind.MERGE)
        except Absent:
            return False
        return True
