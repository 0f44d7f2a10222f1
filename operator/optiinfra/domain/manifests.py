"""How a change of an engine's setting is written down for the person who makes it.

A container's arguments are one list that a patch can only replace as a whole, and what else stands in it may come
from anywhere: then the line to write is named and no patch is offered. Environment variables merge by name, so that a
setting that is one gets a ready patch. Nothing is ever applied from here.
"""

import json
import re
from typing import Final

from optiinfra.domain.engine_flags import line

_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def instruction(setting: str, value: str, *, container: str) -> str:
    """Say in a sentence what to write where."""
    where = f"container {container}" if container else "the engine's container"
    if _VARIABLE.fullmatch(setting):
        return f"Set the variable {line(setting, value)} on {where}."
    if "." in setting:
        return f"Write `{line(setting, value)}` into the file of options that {where} is started with."
    return f"Write `{line(setting, value)}` among the arguments of {where}, in place of what is there."


def patch(setting: str, value: str, *, container: str) -> str:
    """Return a strategic-merge patch of a pod template's owner; empty where none can be written."""
    if not _VARIABLE.fullmatch(setting) or not _NAME.fullmatch(container):
        return ""
    return (
        "spec:\n  template:\n    spec:\n      containers:\n"
        f"      - name: {container}\n        env:\n        - name: {setting}\n          value: {json.dumps(value)}\n"
    )


def undo(setting: str, value: str, *, container: str) -> str:
    """Say how to take a change back; an empty value means that nothing is known to have been given before.

    Whose container is not known, its arguments were not read: what stood there may be more than nothing.
    """
    where = f"container {container}" if container else "the engine's container"
    if value in {"", "not given", "off", "none"}:
        if not container:
            return (
                f"Put back what {where} had for {setting}, or remove it if it had nothing; each replica restarts once."
            )
        return f"Remove {setting} from {where} again; each replica restarts once."
    return f"Put {line(setting, value)} back on {where}; each replica restarts once."
