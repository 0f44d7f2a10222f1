"""Units as distinct types, so that cores never meet bytes by accident.

They are `NewType`s over float: free at run time, checked by mypy. Parsing and printing of Kubernetes quantities is
not done here: that happens at the door (`optiinfra.cluster`), with the API server's own grammar.
"""

from typing import NewType

Cores = NewType("Cores", float)
"""CPU, in cores."""

Bytes = NewType("Bytes", float)
"""Memory, in bytes."""

Gpus = NewType("Gpus", float)
"""GPUs, whole or shares of one."""

Ratio = NewType("Ratio", float)
"""A share, 0 to 1. Never percent."""

Seconds = NewType("Seconds", float)
"""A duration, in seconds."""

UnixTime = NewType("UnixTime", float)
"""A moment, in seconds since 1970-01-01 UTC."""

Money = NewType("Money", float)
"""An amount in the currency of the price list; always with its period in the name of the field that holds it."""

HOURS_PER_MONTH = 730.0
"""Hours in a month as cloud price lists count them (365 x 24 / 12)."""
