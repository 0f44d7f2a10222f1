"""Prices and reservations as the command line gives them: a number, MODEL=NUMBER, or a table of node prices."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from optiinfra.domain.cost import PriceList
from optiinfra.domain.list_prices import CURRENCY
from optiinfra.domain.price_resolution import PriceBook
from optiinfra.domain.price_table import MOST_BYTES, PriceTable, read_table
from optiinfra.domain.prices import MOST_HOUR
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.pricing import Prices

_AMOUNT: Final = re.compile(r"(?:(?P<name>[^=]{1,128})=)?(?P<number>\d{1,7}(?:\.\d{1,9})?)")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_MOST_GPUS: Final = 1e6


def prices_of(
    *, gpu_hours: Sequence[str], table: Path | None, currency: str, reserved: Sequence[str], list_prices: bool
) -> Prices:
    """Read the options. Raises click's errors, each with what to write."""
    if not _CURRENCY.fullmatch(currency):
        raise click.UsageError("--currency: write three capital letters, such as USD")
    named = _amounts(gpu_hours, "--gpu-hour", "2.50 or H100=2.49", most=MOST_HOUR)
    kept = _amounts(reserved, "--reserved-gpus", "16 or H100=16", most=_MOST_GPUS)
    any_model = named.pop("", None)
    flat = PriceList(gpu_hour_by_model=named) if any_model is None else PriceList(named, gpu_hour=any_model)
    # List prices are in one currency, and nothing is ever converted.
    book = PriceBook(currency=currency, table=_table(table), list_prices=list_prices and currency == CURRENCY)
    return Prices(flat=flat, book=book, reserved=kept)


def _amounts(written: Sequence[str], option: str, example: str, *, most: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in written:
        match = _AMOUNT.fullmatch(text.strip())
        if match is None or not 0.0 < float(match["number"]) <= most:
            raise click.UsageError(f"{option} {text[:64]!r}: write {example}")
        name = (match["name"] or "").strip()
        if name in found:
            raise click.UsageError(f"{option}: {name or 'a number for all GPUs'} is given twice; give it once")
        found[name] = float(match["number"])
    return found


def _table(path: Path | None) -> PriceTable | None:
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--prices {path} is not readable: {type(error).__name__}") from error
    table = read_table(text, name=str(path))
    if isinstance(table, Unknown):
        raise click.UsageError(f"--prices: {table.detail}")
    return table
