"""Decisions as a follower answers them: the leader's, asked for with this replica's own token.

The HPA controller may be sent to any replica. A follower never answers from what it once knew: when the leader does
not answer, there is no decision, and the HPA says so.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import orjson

from optiinfra.cluster.errors import FetchError
from optiinfra.errors import OptiInfraError
from optiinfra.web.ports import Decision, Forwarder, OperatorView

_LOG = logging.getLogger(__name__)


class LeaderSilentError(OptiInfraError):
    """Nobody could be asked: no replica leads, or the one that does gave no answer."""


@dataclass(slots=True)
class LeaderDecisions:
    """Published decisions, wherever they are."""

    view: OperatorView
    forwarder: Forwarder
    token_file: Path | None
    _told: str = ""
    """What was logged last: scalers ask several times a minute each, and one word about a trouble is enough."""
    _asked: dict[str, "asyncio.Task[Sequence[Decision]]"] = field(default_factory=dict)
    """Questions under way by namespace: who asks meanwhile waits for the same answer."""

    async def of(self, namespace: str) -> Sequence[Decision]:
        """Return the decisions of a namespace; none while nobody can tell."""
        try:
            return await self.ask(namespace)
        except LeaderSilentError:
            return ()

    async def ask(self, namespace: str) -> Sequence[Decision]:
        """Return the decisions of a namespace.

        Raises:
            LeaderSilentError: when nobody can tell.
        """
        if self.view.leading:
            return self.view.decisions(namespace)
        if not self.view.leader_address:
            raise LeaderSilentError("no replica leads at the moment")
        task = self._asked.get(namespace)
        if task is None:
            task = self._asked[namespace] = asyncio.create_task(self._fetch(namespace), name="leader-decisions")
            task.add_done_callback(lambda done: self._answered(namespace, done))
        return await asyncio.shield(task)

    def _answered(self, namespace: str, task: "asyncio.Task[Sequence[Decision]]") -> None:
        self._asked.pop(namespace, None)
        if task.cancelled():
            return
        error = task.exception()  # looked at here, because all that asked may be gone
        if error is None:
            self._told = ""
        elif str(error) != self._told:
            self._told = str(error)
            _LOG.warning("decisions not had from the leader", extra={"error": str(error)})

    async def _fetch(self, namespace: str) -> Sequence[Decision]:
        if self.token_file is None:
            raise LeaderSilentError("this replica has no token to ask the leader with (OPTIINFRA_PROXY_TOKEN_FILE)")
        try:
            token = (await asyncio.to_thread(self.token_file.read_text)).strip()
            status, _, body = await self.forwarder.forward(
                "GET",
                self.view.leader_address,
                f"/api/v1/decisions/{quote(namespace, safe='')}",
                headers={"authorization": f"Bearer {token}", "x-optiinfra-forwarded": "1"},
                body=b"",
            )
            if status != 200:
                raise LeaderSilentError(f"the leader answered {status}")
            return [
                Decision(item["namespace"], item["name"], int(item["replicas"]), float(item["decided_at"]))
                for item in orjson.loads(body)["items"]
            ]
        except (FetchError, OSError, ValueError, KeyError, TypeError) as error:
            raise LeaderSilentError(str(error)) from error
