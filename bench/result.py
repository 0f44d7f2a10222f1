"""One measured figure beside its limit, and how a bench prints its figures: for people and for `python -m bench`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One figure."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def kept(self) -> bool:
        """True when there is no limit or the value is within it."""
        return self.limit is None or self.value <= self.limit


def shown(results: Sequence[Result], *, as_json: bool) -> int:
    """Print figures beside their limits; return 1 when one of them is missed, else 0."""
    if as_json:
        print(json.dumps([asdict(one) | {"kept": one.kept} for one in results], indent=1))
    else:
        for one in results:
            limit = "" if one.limit is None else f"<= {one.limit:.4g}{'' if one.kept else '  MISSED'}"
            print(f"{one.name:<64} {one.value:>10.4g} {one.unit:<4} {limit}".rstrip())
    return 0 if all(one.kept for one in results) else 1
