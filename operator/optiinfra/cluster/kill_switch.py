"""The kill switch at the API server: the key `paused` of one ConfigMap in the operator's own namespace.

One name, read by GET and never listed or watched: a watch that is silent cannot be told from one that is broken, and
the promise of seconds would then rest on a connection. It is turned on by the chart's pre-delete Job, by
`optiinfra release --all` or by a person with kubectl; nothing in this program ever turns it off. What follows from
what it says, and from not being able to read it, is `optiinfra.control.kill_switch`'s.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import JsonObject, mapping
from optiinfra.cluster.errors import Absent

KEY: Final = "paused"
TURNED_ON_BY: Final = "optiinfra.io/paused-by"
REQUEST_TIMEOUT_S: Final = 2.0
ANSWER_LIMIT_BYTES: Final = 1 << 20


class Said(StrEnum):
    """What the ConfigMap says."""

    GO = "Go"
    """It exists, and `paused` is "false", empty or left out."""
    STOP = "Stop"
    ABSENT = "Absent"
    """There is no such ConfigMap."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One look at the ConfigMap."""

    said: Said
    detail: str = ""
    """What is odd about it; empty when nothing is."""


class KillSwitch:
    """Reads the switch, and turns it on."""

    def __init__(self, client: KubernetesClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        self.shown = f"ConfigMap {namespace}/{name}"

    async def read(self) -> Answer:
        """Look once, without waiting behind other calls.

        Raises:
            ClusterError: nobody knows what it says.
        """
        try:
            document = await self._client.get(
                self._path, timeout_s=REQUEST_TIMEOUT_S, urgent=True, limit_bytes=ANSWER_LIMIT_BYTES
            )
        except Absent:
            return Answer(Said.ABSENT)
        return _answer(document)

    async def turn_on(self, *, by: str) -> bool:
        """Turn it on, and write down who did; False when there is no such ConfigMap, so that nobody could read it."""
        body = {"metadata": {"annotations": {TURNED_ON_BY: by}}, "data": {KEY: "true"}}
        try:
            await self._client.patch(self._path, body, kind=PatchKind.MERGE)
        except Absent:
            return False
        return True


def _answer(document: JsonObject) -> Answer:
    written = mapping(document, "data").get(KEY, "")
    word = written.strip().lower() if isinstance(written, str) else str(written)
    if word in ("", "false"):
        return Answer(Said.GO)
    if word == "true":
        return Answer(Said.STOP)
    # Whoever wrote something there wanted something, and stopping is the harmless reading of it.
    return Answer(Said.STOP, f'{KEY} is {word[:32]!r}, which counts as "true"; write "true" or "false"')
