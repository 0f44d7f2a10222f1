"""The table of node prices that a user keeps in a ConfigMap: CSV, read row by row; the first row that matches counts.

    match,node_hour,gpu_hour,cpu_core_hour,memory_gib_hour,currency,as_of
    instance=p5.48xlarge;capacity=spot,19.80,,,,USD,2026-11-01
    gpu=H100,,2.49,,,USD,2026-11-01
    node=build-*,0.40,,,,USD,2026-11-01

A row gives either the price of the whole node or prices of its parts. `match` is a list of conditions that must all
hold, separated by ";": node, instance, region, zone and pool with * for anything, gpu as a name or a part of it,
capacity as on-demand, spot or reserved, or any label of the node (a key with a "/" in it). The whole table is refused
for one wrong row, because what a wrong row should have matched would silently take the price of a later one.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from optiinfra.domain.node_market import Market
from optiinfra.domain.prices import MOST_HOUR
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaler.variant import CapacityType

MOST_BYTES: Final = 256 * 1024
MOST_ROWS: Final = 2_000
MOST_LOOSE: Final = 200
"""Rows that name no single node, instance, pool, place or label: every node has to be compared with them."""
_MOST_CONDITIONS: Final = 8
_LONGEST: Final = 512
_PRICES: Final = ("node_hour", "gpu_hour", "cpu_core_hour", "memory_gib_hour")
_COLUMNS: Final = ("match", *_PRICES, "currency", "as_of")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_DATE: Final = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
_PRICE: Final = re.compile(r"\d{1,7}(\.\d{1,9})?")
_NAMED: Final = ("node", "instance", "region", "zone", "pool")
_CASELESS: Final = frozenset({"instance", "region", "zone"})
_WILD: Final = re.compile(r"[*?\[]")
_WORDS: Final = frozenset({"node", "instance", "region", "zone", "pool", "gpu", "capacity"})
_CAPACITIES: Final = {
    "on-demand": CapacityType.ON_DEMAND,
    "spot": CapacityType.SPOT,
    "reserved": CapacityType.RESERVED,
}


@dataclass(frozen=True, slots=True)
class Described:
    """A node as conditions see it."""

    name: str
    pool: str
    gpu_model: str
    labels: Mapping[str, str]
    market: Market


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One row; a price that it does not give is None."""

    number: int
    """Line of the file, from 1."""
    conditions: tuple[tuple[str, str], ...]
    node_hour: float | None
    gpu_hour: float | None
    cpu_core_hour: float | None
    memory_gib_hour: float | None
    currency: str
    as_of: str

    @property
    def names_capacity(self) -> bool:
        """Whether it speaks about spot, on-demand or reserved nodes alone: its price needs no factor then."""
        return any(key == "capacity" for key, _ in self.conditions)

    @property
    def exact(self) -> tuple[str, str] | None:
        """A condition that names one value of a node, as `_exact_conditions` writes it; None where there is none."""
        for key, value in self.conditions:
            if (key in _NAMED or "/" in key) and not _WILD.search(value):
                return key, value.lower() if key in _CASELESS else value
        return None

    def matches(self, node: Described) -> bool:
        """Tell whether all conditions hold."""
        return all(_holds(key, value, node) for key, value in self.conditions)


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The rows in their order."""

    name: str
    """As people find it: "ConfigMap optiinfra/prices"."""
    rows: tuple[PriceRow, ...]
    _exact: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    """Places of the rows with a condition that names one value, by that condition; each row once."""
    _loose: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Places of the others."""

    @classmethod
    def of(cls, name: str, rows: tuple[PriceRow, ...]) -> "PriceTable":
        """Index the rows, so that a node is compared with few of them."""
        exact: dict[tuple[str, str], list[int]] = {}
        loose: list[int] = []
        for place, row in enumerate(rows):
            condition = row.exact
            if condition is None:
                loose.append(place)
            else:
                exact.setdefault(condition, []).append(place)
        return cls(name, rows, {condition: tuple(places) for condition, places in exact.items()}, tuple(loose))

    def row_for(self, node: Described) -> PriceRow | None:
        """Return the first row that matches."""
        places = [
            place for condition in _exact_conditions(node, self._exact) for place in self._exact.get(condition, ())
        ]
        return next(
            (self.rows[place] for place in sorted((*places, *self._loose)) if self.rows[place].matches(node)), None
        )


def read_table(text: str, *, name: str) -> PriceTable | Unknown:
    """Read a table, or say which row is wrong, in one line with the remedy."""
    if len(text.encode("utf-8")) > MOST_BYTES:
        return _wrong(name, f"the table is larger than {MOST_BYTES >> 10} KiB; match groups of nodes with *")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()[:1] not in ("", "#")]
    if not lines:
        return _wrong(name, f"the table is empty; its first line is {','.join(_COLUMNS)}")
    header = [cell.strip() for cell in _cells(lines[0][1])]
    unknown = sorted(set(header) - set(_COLUMNS))
    if unknown or "match" not in header or "currency" not in header or len(set(header)) != len(header):
        what = f"column {unknown[0][:40]!r} is not known" if unknown else "columns are missing or twice"
        return _wrong(name, f"row {lines[0][0]}: {what}; write {','.join(_COLUMNS)}")
    if len(lines) - 1 > MOST_ROWS:
        return _wrong(name, f"{len(lines) - 1} rows, at most {MOST_ROWS} are read; match groups of nodes with *")
    rows: list[PriceRow] = []
    seen: dict[tuple[tuple[str, str], ...], int] = {}
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in _cells(line)]
        if len(cells) != len(header):
            return _wrong(name, f"row {number}: {len(cells)} cells under {len(header)} columns; add or remove commas")
        row = _row(number, dict(zip(header, cells, strict=True)))
        if isinstance(row, str):
            return _wrong(name, f"row {number}: {row}")
        before = seen.setdefault(tuple(sorted(row.conditions)), number)
        if before != number:
            return _wrong(name, f"row {number}: matches what row {before} matches and is never used; remove one")
        rows.append(row)
    loose = sum(row.exact is None for row in rows)
    if loose > MOST_LOOSE:
        text = f"{loose} rows match by * or gpu alone, at most {MOST_LOOSE} may; name an instance, a pool or a node"
        return _wrong(name, text)
    return PriceTable.of(name, tuple(rows))


def _cells(line: str) -> Sequence[str]:
    return next(csv.reader([line]), [])


def _row(number: int, cells: Mapping[str, str]) -> PriceRow | str:
    if any(len(cell) > _LONGEST for cell in cells.values()):
        return f"a cell has more than {_LONGEST} characters"
    conditions = _conditions(cells["match"])
    if isinstance(conditions, str):
        return conditions
    prices: dict[str, float | None] = {}
    for column in _PRICES:
        written = cells.get(column, "")
        if not written:
            prices[column] = None
            continue
        price = float(written) if _PRICE.fullmatch(written) else -1.0
        if not 0.0 < price <= MOST_HOUR:
            return (
                f"{column} {written[:24]!r} is not an amount above 0 and at most {MOST_HOUR:g}; write one like 2.50, "
                "or leave the cell empty"
            )
        prices[column] = price
    if prices["node_hour"] is not None and any(prices[column] is not None for column in _PRICES[1:]):
        return "node_hour is the whole node; leave it or the prices of its parts empty"
    if all(price is None for price in prices.values()):
        return f"no price; fill one of {', '.join(_PRICES)}"
    if not _CURRENCY.fullmatch(cells["currency"]):
        return f"currency {cells['currency'][:12]!r}: write three capital letters, such as USD"
    as_of = cells.get("as_of", "")
    if as_of and not _DATE.fullmatch(as_of):
        return f"as_of {as_of[:24]!r}: write a date such as 2026-11-01"
    return PriceRow(
        number=number,
        conditions=conditions,
        node_hour=prices["node_hour"],
        gpu_hour=prices["gpu_hour"],
        cpu_core_hour=prices["cpu_core_hour"],
        memory_gib_hour=prices["memory_gib_hour"],
        currency=cells["currency"],
        as_of=as_of,
    )


def _conditions(text: str) -> tuple[tuple[str, str], ...] | str:
    found: list[tuple[str, str]] = []
    for part in text.split(";"):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not value:
            return f"match {part.strip()[:64]!r}: write conditions such as instance=p5.48xlarge;region=us-east-1"
        if key not in _WORDS and "/" not in key:
            known = ", ".join(sorted(_WORDS))
            return f"match {key[:64]!r} is not known: write {known} or a label such as example.com/tier"
        if key == "capacity" and value not in _CAPACITIES:
            return f"capacity {value[:24]!r}: write {', '.join(_CAPACITIES)}"
        if key == "gpu" and not squash(value):
            return f"gpu {value[:24]!r}: write a name or a part of it, such as H100"
        if key in {before for before, _ in found}:
            return f"match {key[:64]!r} stands there twice; one row matches one value"
        found.append((key, value))
    if len(found) > _MOST_CONDITIONS:
        return f"{len(found)} conditions, at most {_MOST_CONDITIONS} are read"
    return tuple(found)


def _holds(key: str, value: str, node: Described) -> bool:
    match key:
        case "node":
            return fnmatchcase(node.name, value)
        case "pool":
            return fnmatchcase(node.pool, value)
        case "instance":
            return fnmatchcase(node.market.instance_type.lower(), value.lower())
        case "region":
            return fnmatchcase(node.market.region.lower(), value.lower())
        case "zone":
            return fnmatchcase(node.market.zone.lower(), value.lower())
        case "gpu":
            return squash(value) in squash(node.gpu_model)
        case "capacity":
            return node.market.capacity is _CAPACITIES[value]
        case _:
            return fnmatchcase(node.labels.get(key, ""), value)


def _exact_conditions(node: Described, asked: Mapping[tuple[str, str], object]) -> Iterator[tuple[str, str]]:
    """Yield every condition that names a value of this node; of its labels only those that some row asks for."""
    market = node.market
    yield "node", node.name
    yield "pool", node.pool
    yield "instance", market.instance_type.lower()
    yield "region", market.region.lower()
    yield "zone", market.zone.lower()
    for label in node.labels.items():
        if "/" in label[0] and label in asked:
            yield label


def squash(name: str) -> str:
    """Bring a GPU's name into a form that can be compared: letters and digits in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _wrong(name: str, text: str) -> Unknown:
    return Unknown(UnknownReason.INVALID, f"{name}: {text}")
