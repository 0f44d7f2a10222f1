"""Identifiers of recommendations and actions: short, stable hashes that a human can copy into an annotation.

An id speaks about one change of one target of one object, issued at one moment: an approval of it can never be used
for another one, nor for the same change proposed again later. Setting and subject are part of it, because two
containers may well go from "2" to "1" in the same round.
"""

import hashlib

from optiinfra.domain.evidence import Proposal
from optiinfra.domain.units import UnixTime

LENGTH = 12
"""Hexadecimal digits: with 32 open ids an accidental match is a matter of one in 10^12."""


def recommendation_id(*, object_uid: str, target_uid: str, proposal: Proposal, issued: UnixTime) -> str:
    """Return the id of a proposal issued at a moment (whole seconds, as status shows it)."""
    return _digest(
        object_uid,
        target_uid,
        proposal.type,
        proposal.subject,
        proposal.setting,
        proposal.current,
        proposal.proposed,
        str(int(issued)),
    )


def action_id(*, recommendation: str, started: UnixTime, attempt: int = 0) -> str:
    """Return the id of one application of a recommendation; a stepwise action has several attempts."""
    return _digest("action", recommendation, str(int(started)), str(attempt))


def _digest(*parts: str) -> str:
    # lengths in front: ("a", "bc") and ("ab", "c") must differ
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
