"""Who may call: bearer tokens of our own audience, checked and authorised by the API server.

TokenReview says who it is, SubjectAccessReview says whether they may; nothing is decided from the token's text. Tokens
for the API server itself are refused by their audience, so a stolen one is no key to us and ours is none to it. Good
answers are remembered for a minute, bad ones for ten seconds, both bounded; tokens are kept only as hashes.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from optiinfra.cluster.errors import ClusterError
from optiinfra.web.ports import Caller, Reviewer

_GOOD_SECONDS = 60.0
_BAD_SECONDS = 10.0
_REMEMBERED = 2048
_REVIEWS_AT_ONCE = 8

_BEARER = HTTPBearer(auto_error=False, description="Token of audience `optiinfra` (kubectl create token --audience)")


@dataclass(slots=True)
class Gate:
    """Checks callers; `reviewer` None lets everybody in (tests only, refused by the settings in a cluster)."""

    reviewer: Reviewer | None
    _reviewing: int = 0
    _callers: OrderedDict[str, tuple[float, Caller | None]] = field(default_factory=OrderedDict)
    _verdicts: OrderedDict[object, tuple[float, bool]] = field(default_factory=OrderedDict)

    async def caller(self, token: str) -> Caller | None:
        """Return who holds the token, or None."""
        assert self.reviewer is not None
        key = hashlib.sha256(token.encode()).hexdigest()
        known = self._callers.get(key)
        now = time.monotonic()
        if known is not None and known[0] > now:
            return known[1]
        if self._reviewing >= _REVIEWS_AT_ONCE:
            # Reviews use the operator's own client: a flood of bad tokens must not starve its writes.
            raise HTTPException(429, "too many callers are being checked; try again", {"Retry-After": "1"})
        self._reviewing += 1
        try:
            caller = await self.reviewer.authenticate(token)
        finally:
            self._reviewing -= 1
        _remember(self._callers, key, (now + (_GOOD_SECONDS if caller else _BAD_SECONDS), caller))
        return caller

    async def permit(
        self, caller: Caller, *, verb: str, resource: str, namespace: str = "", name: str = "", subresource: str = ""
    ) -> bool:
        """Tell whether the caller may do `verb` on our `resource`."""
        assert self.reviewer is not None
        # Everything that the review sees: two callers who differ in anything never share a verdict.
        who = (caller.user, caller.groups, tuple(sorted(caller.extra.items())))
        key = (who, verb, resource, namespace, name, subresource)
        known = self._verdicts.get(key)
        now = time.monotonic()
        if known is not None and known[0] > now:
            return known[1]
        allowed = await self.reviewer.authorize(
            caller,
            verb=verb,
            group="optiinfra.io",
            resource=resource,
            namespace=namespace,
            name=name,
            subresource=subresource,
        )
        _remember(self._verdicts, key, (now + (_GOOD_SECONDS if allowed else _BAD_SECONDS), allowed))
        return allowed

    async def demand(
        self, request: Request, *, verb: str, resource: str, namespace: str = "", name: str = "", subresource: str = ""
    ) -> None:
        """Raise 403 unless the caller of this request may do it, 503 when nobody can say."""
        if not await self.allows(
            request, verb=verb, resource=resource, namespace=namespace, name=name, subresource=subresource
        ):
            what = f"{resource}/{subresource}" if subresource else resource
            user = request.state.caller.user
            raise HTTPException(403, f"{user} may not {verb} {what}.optiinfra.io in namespace '{namespace}'")

    async def allows(
        self, request: Request, *, verb: str, resource: str, namespace: str = "", name: str = "", subresource: str = ""
    ) -> bool:
        """Tell whether the caller of this request may do it; raises 503 when nobody can say."""
        caller: Caller | None = request.state.caller
        if caller is None:
            return True  # authentication is off
        try:
            return await self.permit(
                caller, verb=verb, resource=resource, namespace=namespace, name=name, subresource=subresource
            )
        except ClusterError as error:
            raise _unanswered(error) from error


def _unanswered(error: ClusterError) -> HTTPException:
    return HTTPException(503, f"the API server could not be asked who you are and what you may: {error}")


def _remember(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]  # two value types
    table[key] = value
    table.move_to_end(key)
    while len(table) > _REMEMBERED:
        table.popitem(last=False)


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> None:
    """Put the caller into `request.state.caller`, or answer 401."""
    gate: Gate = request.app.state.gate
    request.state.caller = None
    if gate.reviewer is None:
        return
    if credentials is None:
        raise HTTPException(
            401, "send 'Authorization: Bearer <token of audience optiinfra>'", {"WWW-Authenticate": "Bearer"}
        )
    try:
        caller = await gate.caller(credentials.credentials)
    except ClusterError as error:
        raise _unanswered(error) from error
    if caller is None:
        raise HTTPException(401, "the token is not valid for audience optiinfra", {"WWW-Authenticate": "Bearer"})
    request.state.caller = caller
