"""Decisions as a follower answers them: the leader's, asked for with this replica's own token.

The HPA controller may be sent to any replica. A follower never answers from what it once knew: when the leader does
not answer, there is no decision, and the HPA says so.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from optiinfra.cluster.errors import FetchError
from optiinfra.web.ports import Decision, Forwarder, OperatorView

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class LeaderDecisions:
    """Published decisions, wherever they are."""

    view: OperatorView
    forwarder: Forwarder
    token_file: Path | None
    _told: str = ""
    """What was logged last: scalers ask several times a minute each, and one word about a trouble is enough."""

    async def of(self, namespace: str) -> Sequence[Decision]:
        """Return the decisions of a namespace; none while nobody can tell."""
        if self.view.leading:
            return self.view.decisions(namespace)
        address = self.view.leader_address
        if not address or self.token_file is None:
            return ()
        try:
            token = (await asyncio.to_thread(self.token_file.read_text)).strip()
            status, _, body = await self.forwarder.forward(
                "GET",
                address,
                f"/api/v1/decisions/{quote(namespace, safe='')}",
                headers={"authorization": f"Bearer {token}", "x-optiinfra-forwarded": "1"},
                body=b"",
            )
            if status != 200:
                return self._without(f"the leader answered {status}")
            decisions = [
                Decision(item["namespace"], item["name"], int(item["replicas"]), float(item["decided_at"]))
                for item in orjson.loads(body)["items"]
            ]
        except (FetchError, OSError, ValueError, KeyError, TypeError) as error:
            return self._without(str(error))
        self._told = ""
        return decisions

    def _without(self, why: str) -> Sequence[Decision]:
        if why != self._told:
            self._told = why
            _LOG.warning("decisions not had from the leader", extra={"error": why})
        return ()
