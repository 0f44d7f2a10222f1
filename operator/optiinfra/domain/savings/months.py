"""Months of UTC as 2026-11, without a clock or a calendar library: days are counted in the Gregorian calendar.

The day count is Howard Hinnant's `days_from_civil` and `civil_from_days` (chrono-compatible low-level date algorithms),
which begin the year in March so that the leap day comes last.
"""

from typing import Final

from optiinfra.domain.units import UnixTime

DAY: Final = 86_400
_ERA_DAYS: Final = 146_097
_EPOCH: Final = 719_468
"""Days from 0000-03-01 to 1970-01-01."""


def month_of(at: UnixTime) -> str:
    """Name the month of a moment."""
    days = int(at // DAY) + _EPOCH
    era, of_era = divmod(days, _ERA_DAYS)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    month += 3 if month < 10 else -9
    return f"{year_of_era + era * 400 + (1 if month <= 2 else 0):04d}-{month:02d}"


def month_start(month: str) -> UnixTime:
    """Return the moment at which a month begins."""
    year, number = (int(part) for part in month.split("-"))
    year -= 1 if number <= 2 else 0
    era, year_of_era = divmod(year, 400)
    of_year = (153 * (number + (-3 if number > 2 else 9)) + 2) // 5
    of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + of_year
    return UnixTime(float((era * _ERA_DAYS + of_era - _EPOCH) * DAY))


def month_after(month: str) -> str:
    """Name the month after a month."""
    year, number = (int(part) for part in month.split("-"))
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"
