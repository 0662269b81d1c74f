"""Spans of whole days and what they are called: months, seasons, weeks. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

Range = tuple[date, date]  # the end is the first day that does not belong to it
DAY = timedelta(days=1)
YEARS_BACK = 5  # "in June" means one of the last so many


def numbered(names: str) -> dict[str, int]:
    """Names by their number, from 1."""
    return {name: number for number, name in enumerate(names.split(), start=1)}


MONTHS = numbered(
    "january february march april may june july august september october november december"
)
SHORT_MONTHS = {name[:3]: number for name, number in MONTHS.items()} | {"sept": 9}
WEEKDAYS = numbered("monday tuesday wednesday thursday friday saturday sunday")
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}  # first months, north


def month_of(year: int, number: int) -> Range:
    """The month of a year; 0 is the last one of the year before, 13 the first of the next."""
    year, number = year + (number - 1) // 12, (number - 1) % 12 + 1
    end = date(year + number // 12, number % 12 + 1, 1)
    return date(year, number, 1), end


def year_of(year: int) -> Range:
    """A year."""
    return date(year, 1, 1), date(year + 1, 1, 1)


def season_of(year: int, name: str) -> Range:
    """A season as the north has it; a winter begins in the year that it is named after."""
    first = SEASONS[name]
    return month_of(year, first)[0], month_of(year, first + 2)[1]


def week_of(today: date, offset: int) -> Range:
    """The week of a day, or one so many later; weeks begin on Monday."""
    monday = today - today.weekday() * DAY + 7 * offset * DAY
    return monday, monday + 7 * DAY


def weekend_of(today: date, offset: int) -> Range:
    """Saturday and Sunday of a week, as `week_of`."""
    saturday = week_of(today, offset)[0] + 5 * DAY
    return saturday, saturday + 2 * DAY


def of_which(which: str, of_year: Callable[[int], Range], today: date) -> list[Range]:
    """ "last May", "next summer": the nearest on that side of today."""
    years = [of_year(today.year + offset) for offset in (-2, -1, 0, 1, 2)]
    match which:
        case "next" | "coming":
            return [next(one for one in years if one[0] > today)]
        case "this":
            return [of_year(today.year)]
        case _:
            return [next(one for one in reversed(years) if one[1] <= today)]


def of_any_year(of_year: Callable[[int], Range], today: date) -> list[Range]:
    """The last YEARS_BACK that have begun, the last first."""
    years = (of_year(today.year - back) for back in range(YEARS_BACK + 1))
    return [one for one in years if one[0] <= today][:YEARS_BACK]
