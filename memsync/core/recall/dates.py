"""Dates in a question, as spans of time: "last May", "in 2022", "two weeks ago". Pure.

A small English grammar. Anchors are phrases that name a span by themselves (`_ANCHORS`, longest and
surest first; what one has taken no other reads). Then what stands before an anchor changes it:
"since", "by", "the Friday before", "the first weekend of". What is no date must stay none:
"May I", "decide to march", "a present from June", "2000 people" are words. A month or a season
without a year is that of any of the last years, since nobody says which: "in June".

All is relative to a day, that of the question, in UTC. Spans are evidence, never a filter
(`closeness`): memories of an event are written on its day or later, people err, and a day begins at
another hour for each of them.
"""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.core.recall.days import (
    DAY,
    MONTHS,
    SEASONS,
    SHORT_MONTHS,
    WEEKDAYS,
    YEARS_BACK,
    Range,
    month_of,
    numbered,
    of_any_year,
    of_which,
    season_of,
    week_of,
    weekend_of,
    year_of,
)
from memsync.core.recall.lexical import fold

MS_PER_DAY = 86_400_000
QUESTION_CHARS_MAX = 1_000  # dates are looked for in so much of a question
SPANS_MAX = 8
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2200, 1, 1)

# Half as near with every day before a span, and with every two days, or tenth of it, after: what
# was is told afterwards, and mostly soon.
BEFORE_DAYS = 1.0
AFTER_DAYS, AFTER_SHARE, AFTER_DAYS_MAX = 2.0, 0.1, 30.0


class Span(msgspec.Struct, frozen=True):
    """From `start_ms` to before `end_ms`, milliseconds since 1970, UTC."""

    start_ms: int
    end_ms: int


class _Anchor(msgspec.Struct, frozen=True):
    """A phrase at start:end of the text, and what it may mean."""

    start: int
    end: int
    ranges: list[Range]


_COUNTS = numbered("one two three four five six seven eight nine ten eleven twelve") | {
    "a": 1, "an": 1, "a couple of": 2, "couple of": 2, "a few": 3, "few": 3, "several": 4,
}  # fmt: skip
_ORDINALS = {"first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3,
             "4th": 3, "last": -1}  # fmt: skip
_UNIT_DAYS = {"day": 1, "night": 1, "week": 7, "weekend": 7, "month": 30, "year": 365}


def _any_of(names: Any) -> str:
    return "(?:" + "|".join(sorted(names, key=len, reverse=True)) + ")"


_MONTH = _any_of(MONTHS)
_SHORT = _any_of([*MONTHS, *SHORT_MONTHS])
_NTH = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_SOME_YEAR = "(?:19|20)[0-9]{2}"
_YEAR = rf"(?P<year>{_SOME_YEAR})"
_COUNT = rf"(?P<count>[0-9]{{1,3}}|{_any_of(_COUNTS)})"
_UNIT = rf"(?P<unit>{_any_of(_UNIT_DAYS)})s?"
_WHICH = r"(?P<which>last|past|previous|this|next|coming)"
_SPACE = "[ -]"


def _after_one_of(words: str) -> str:
    """That one of these words stands before, without taking it in."""
    return "(?:" + "|".join(f"(?<=\\b{word}{_SPACE})" for word in words.split()) + ")"


# What stands before a month or a year that is meant as one.
_OF_TIME = "in of by during since until till before after through between early mid late"
_PREPOSITION = _after_one_of(_OF_TIME + " from to")
# Names and verbs, too: nothing comes "from June" or goes "to march" when it is a month.
_NAMES = ("may", "march", "april", "june", "august")
# Words and numbers that are no part of a date, whatever stands before them.
_NO_DATE = re.compile(
    r"\bmay(?= (?:be|come|have|go|not|also|still|i|we|you|he|she|they|it)\b)"
    rf"|\b[0-9]{{1,4}}(?= (?:people|men|women|children"
    rf"|(?!(?:does|this|always|perhaps|{_any_of(_UNIT_DAYS)}s)\b)[a-z]{{2,}}[^\Ws0-9_]s)\b)"
)
# Every anchor holds one of these. Most questions name no time, and are looked through once.
_HINT = re.compile(
    rf"\b(?:{_SOME_YEAR}|{_any_of([*MONTHS, *SHORT_MONTHS, *WEEKDAYS, *SEASONS])}"
    r"|yesterday|today|tonight|tomorrow|ago|last|past|previous|this|next|coming)\b"
)


def spans_of(question: str, now_ms: int) -> list[Span]:
    """The spans that a question names, at most SPANS_MAX; none in most."""
    text = fold(question[:QUESTION_CHARS_MAX])
    if not _HINT.search(text):
        return []
    text = _NO_DATE.sub("#", text)
    day = now_ms // MS_PER_DAY
    first, last = ((d - date(1970, 1, 1)).days for d in (FIRST_DAY, LAST_DAY))
    today = date(1970, 1, 1) + timedelta(days=min(max(day, first), last))
    ranges = [one for anchor in _anchors(text, today) for one in anchor.ranges]
    return [Span(_ms(start), _ms(end)) for start, end in ranges if start < end][:SPANS_MAX]


def closeness(moment_ms: NDArray[np.int64], spans: list[Span]) -> NDArray[np.float32]:
    """(n,) float32, 0..1 for (n,) moments: 1 inside of a span, half as much with every BEFORE_DAYS
    before it and every AFTER_DAYS, or AFTER_SHARE of its length, after it; that of the nearest."""
    nearest = np.zeros(len(moment_ms), np.float32)
    for span in spans:
        length = (span.end_ms - span.start_ms) / MS_PER_DAY
        before = (span.start_ms - moment_ms) / (MS_PER_DAY * BEFORE_DAYS)
        after_days = min(max(AFTER_DAYS, length * AFTER_SHARE), AFTER_DAYS_MAX)
        after = (moment_ms - span.end_ms) / (MS_PER_DAY * after_days)
        away = np.maximum(np.maximum(before, after), 0).astype(np.float32)
        np.maximum(nearest, np.exp2(-away), out=nearest)
    return nearest


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _anchors(text: str, today: date) -> Iterator[_Anchor]:
    """What the text names, with what stands before it taken in."""
    found: list[_Anchor] = []
    for pattern, read in _ANCHORS:
        for match in pattern.finditer(text):
            taken = any(match.start() < one.end and one.start < match.end() for one in found)
            ranges = [] if taken else _possible(partial(read, match, today))
            if ranges:
                found.append(_Anchor(match.start(), match.end(), ranges))
    found.sort(key=lambda one: one.start)
    places = iter(range(len(found)))
    for place in places:
        anchor = found[place]
        following = found[place + 1] if place + 1 < len(found) else None
        if following is not None and _joins(text, anchor, following):
            next(places)
            yield _Anchor(anchor.start, following.end, _from_to(anchor, following))
        else:
            yield _changed(text, anchor)


def _from_to(one: _Anchor, other: _Anchor) -> list[Range]:
    """From the last beginning of the one before the end of the other: "from March to May 2022"."""
    end = other.ranges[0][1]
    begins = [start for start, _ in one.ranges if start < end]
    return [(max(begins), end)] if begins else []


def _possible(read: Callable[[], list[Range]]) -> list[Range]:
    """What a phrase may mean; nothing where there is no such day."""
    try:
        return [(a, b) for a, b in read() if a >= FIRST_DAY and b <= LAST_DAY]
    except (ValueError, OverflowError):
        return []


def _each(
    change: Callable[[re.Match[str], Range], Range], match: re.Match[str], ranges: list[Range]
) -> list[Range]:
    return [change(match, own) for own in ranges]


def _joins(text: str, one: _Anchor, other: _Anchor) -> bool:
    """Whether it is said "from A to B" or "between A and B"."""
    before, between = text[: one.start], text[one.end : other.start]
    if re.fullmatch(r",? *(to|until|till|through|-) *(the )?", between):
        return bool(re.search(r"\bfrom (the )?$", before))
    is_and = re.fullmatch(r",? and *(the )?", between)
    return bool(is_and and re.search(r"\bbetween (the )?$", before))


def _changed(text: str, anchor: _Anchor) -> _Anchor:
    """The anchor as the words before it change it."""
    before = text[: anchor.start]
    for pattern, change in _CHANGES:
        match = pattern.search(before)
        if match is not None:
            ranges = _possible(partial(_each, change, match, anchor.ranges))
            return _Anchor(match.start(), anchor.end, ranges)
    return anchor


# Readers of anchors.


def _given(match: re.Match[str], name: str) -> str | None:
    """A group that not every pattern of a reader has."""
    return match.groupdict().get(name)


def _read_iso(match: re.Match[str], _today: date) -> list[Range]:
    year, month = int(match["year"]), int(match["month"])
    if match["day"] is None:
        return [month_of(year, month)] if month <= 12 else []
    day = date(year, month, int(match["day"]))
    return [(day, day + DAY)]


def _read_day(match: re.Match[str], today: date) -> list[Range]:
    month = MONTHS.get(match["month"]) or SHORT_MONTHS[match["month"]]
    if year := _given(match, "year"):
        day = date(int(year), month, int(match["day"]))
        return [(day, day + DAY)]
    leap_day = date(2000, month, int(match["day"]))  # raises where no year has such a day
    years = range(today.year, today.year - YEARS_BACK - 1, -1)
    days = [
        date(year, month, leap_day.day)
        for year in years
        if (month, leap_day.day) != (2, 29) or isleap(year)
    ]
    return [(day, day + DAY) for day in days if day <= today][:YEARS_BACK]


def _read_month(match: re.Match[str], today: date) -> list[Range]:
    month = MONTHS.get(match["month"]) or SHORT_MONTHS[match["month"]]
    if year := _given(match, "year"):
        return [month_of(int(year), month)]
    return of_any_year(lambda year: month_of(year, month), today)


def _read_months(match: re.Match[str], today: date) -> list[Range]:
    first, last = MONTHS[match["first"]], MONTHS[match["last"]]
    found = []
    for year in [int(match["year"])] if match["year"] else range(today.year, 0, -1)[:YEARS_BACK]:
        start = month_of(year - (first > last), first)[0]
        if match["year"] or start <= today:
            found.append((start, month_of(year, last)[1]))
    return found


def _read_which_month(match: re.Match[str], today: date) -> list[Range]:
    return of_which(match["which"], lambda y: month_of(y, MONTHS[match["month"]]), today)


def _read_season(match: re.Match[str], today: date) -> list[Range]:
    if year := _given(match, "year"):
        return [season_of(int(year), match["season"])]
    return of_any_year(lambda year: season_of(year, match["season"]), today)


def _read_which_season(match: re.Match[str], today: date) -> list[Range]:
    return of_which(match["which"], lambda y: season_of(y, match["season"]), today)


def _read_year(match: re.Match[str], _today: date) -> list[Range]:
    return [year_of(int(match["year"]))]


def _read_years(match: re.Match[str], _today: date) -> list[Range]:
    return [(year_of(int(match["first"]))[0], year_of(int(match["last"]))[1])]


def _read_named_day(match: re.Match[str], today: date) -> list[Range]:
    offsets = {"the day before yesterday": -2, "yesterday": -1, "last night": -1, "tomorrow": 1}
    day = today + offsets.get(match[0], 0) * DAY
    return [(day, day + DAY)]


def _read_which_unit(match: re.Match[str], today: date) -> list[Range]:
    offset = {"this": 0, "next": 1, "coming": 1}.get(match["which"], -1)
    match match["unit"]:
        case "week":
            return [week_of(today, offset)]
        case "weekend":
            return [weekend_of(today, offset)]
        case "month":
            return [month_of(today.year, today.month + offset)]
        case _:
            return [year_of(today.year + offset)]


def _read_weekday(match: re.Match[str], today: date) -> list[Range]:
    ahead = (WEEKDAYS[match["weekday"]] - 1 - today.weekday()) % 7  # 0 is today
    following, latest = today + (ahead or 7) * DAY, today - ((-ahead) % 7) * DAY
    match _given(match, "which"):
        case "next" | "coming":
            days = [following]
        case "this":
            days = [week_of(today, 0)[0] + (WEEKDAYS[match["weekday"]] - 1) * DAY]
        case None:
            days = [latest, following]
        case _:
            days = [latest if latest < today else latest - 7 * DAY]
    return [(day, day + DAY) for day in days]


def _count(match: re.Match[str]) -> int:
    return int(match["count"]) if match["count"].isdigit() else _COUNTS[match["count"]]


def _read_ago(match: re.Match[str], today: date) -> list[Range]:
    """As exact as it is said: a year ago may be eleven months, a day ago is a day."""
    unit = _UNIT_DAYS[match["unit"]]
    day, about = today - _count(match) * unit * DAY, unit // 2 * DAY
    return [(day - about, day + about + DAY)]


def _read_latest(match: re.Match[str], today: date) -> list[Range]:
    return [(today - _count(match) * _UNIT_DAYS[match["unit"]] * DAY, today + DAY)]


_ANCHORS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], date], list[Range]]], ...] = tuple(
    (re.compile(rf"\b{pattern}\b"), read)
    for pattern, read in (
        (rf"between (?P<first>{_MONTH}) and (?P<last>{_MONTH})(?: {_YEAR})?", _read_months),
        (rf"from (?P<first>{_MONTH}) (?:to|until|till|through) (?P<last>{_MONTH})(?: {_YEAR})?",
         _read_months),
        (rf"between (?P<first>{_SOME_YEAR}) and (?P<last>{_SOME_YEAR})", _read_years),
        (rf"{_YEAR}[-/](?P<month>[01]?[0-9])(?:[-/](?P<day>[0-3]?[0-9]))?", _read_iso),
        (rf"{_NTH} (?:of )?(?P<month>{_SHORT})\.?,?(?: (?:of )?{_YEAR})?", _read_day),
        (rf"(?P<month>{_SHORT})\.? (?:the )?{_NTH}(?![0-9]),?(?: {_YEAR})?", _read_day),
        (rf"(?P<month>{_SHORT})\.?,? (?:of )?{_YEAR}", _read_month),
        (rf"{_WHICH} (?P<month>{_MONTH})", _read_which_month),
        (rf"(?P<season>{_any_of(SEASONS)}) (?:of )?{_YEAR}", _read_season),
        (rf"{_WHICH} (?P<season>{_any_of(SEASONS)})", _read_which_season),
        (r"the day before yesterday|yesterday|last night|today|tonight|this morning|tomorrow",
         _read_named_day),
        (rf"{_COUNT} {_UNIT} ago", _read_ago),
        (rf"(?:last|past|previous) {_COUNT} {_UNIT}", _read_latest),
        (rf"{_WHICH} (?P<unit>weekend|week|month|year)(?! (?:of|in)\b)", _read_which_unit),
        (rf"{_WHICH} (?P<weekday>{_any_of(WEEKDAYS)})(?! (?:of|in)\b)", _read_weekday),
        (rf"{_after_one_of('on since until by before after')}(?P<weekday>{_any_of(WEEKDAYS)})",
         _read_weekday),
        (rf"{_after_one_of(_OF_TIME)}(?P<month>{_MONTH})", _read_month),
        (rf"{_after_one_of('from to')}(?P<month>{_any_of(set(MONTHS) - set(_NAMES))})",
         _read_month),
        (rf"(?:(?<=in the )|(?<=during the )|(?<=over the )|{_after_one_of('in during over')})"
         rf"(?P<season>{_any_of(SEASONS)})", _read_season),
        (rf"(?:{_PREPOSITION}|{_after_one_of('year around')}){_YEAR}", _read_year),
    )
)  # fmt: skip


# What the words before an anchor make of its range.


def _part_of(match: re.Match[str], own: Range) -> Range:
    third, half = (own[1] - own[0]) / 3, (own[1] - own[0]) / 2
    match match["part"]:
        case "early" | "beginning of" | "start of":
            return own[0], own[0] + third
        case "mid" | "middle of":
            return own[0] + third, own[1] - third
        case "first half of":
            return own[0], own[0] + half
        case "second half of":
            return own[0] + half, own[1]
        case _:
            return own[1] - third, own[1]


def _nth_of(match: re.Match[str], own: Range) -> Range:
    """ "the first weekend of", "the last week of", "the second Monday of"."""
    nth, name = _ORDINALS[match["nth"]], match["unit"]
    if name == "week":
        start = own[0] + 7 * nth * DAY if nth >= 0 else own[1] - 7 * DAY
        return start, start + 7 * DAY
    wanted, length = (5, 2) if name == "weekend" else (WEEKDAYS[name] - 1, 1)
    first = own[0] + ((wanted - own[0].weekday()) % 7) * DAY
    day = (
        first + 7 * nth * DAY if nth >= 0 else first + ((own[1] - DAY - first).days // 7) * 7 * DAY
    )
    return day, day + length * DAY


def _beside(match: re.Match[str], own: Range) -> Range:
    """ "the Friday before", "the week after", "two days before"."""
    name, is_before = match["unit"], match["side"] in ("before", "preceding")
    edge = own[0] if is_before else own[1]
    if name in WEEKDAYS or name == "weekend":
        wanted, length = (5, 2) if name == "weekend" else (WEEKDAYS[name] - 1, 1)
        if is_before:
            day = edge - (((edge - DAY).weekday() - wanted) % 7 + 1) * DAY
        else:
            day = edge + ((wanted - edge.weekday()) % 7) * DAY
        return day, day + length * DAY
    length = _UNIT_DAYS[name] * (_count(match) if match["count"] else 1)
    return (edge - length * DAY, edge) if is_before else (edge, edge + length * DAY)


def _up_to(_match: re.Match[str], own: Range) -> Range:
    return FIRST_DAY, own[1]


def _before(_match: re.Match[str], own: Range) -> Range:
    return FIRST_DAY, own[0]


def _since(_match: re.Match[str], own: Range) -> Range:
    return own[0], LAST_DAY


def _after(_match: re.Match[str], own: Range) -> Range:
    return own[1], LAST_DAY


_PARTS = _any_of(
    ("early", "mid", "late", "beginning of", "start of", "middle of", "end of", "first half of",
     "second half of")
)  # fmt: skip
_CHANGES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Range], Range]], ...] = tuple(
    (re.compile(rf"\b{pattern}(?: the)? ?-?$"), change)
    for pattern, change in (
        (rf"(?P<nth>{_any_of(_ORDINALS)}) (?P<unit>week|weekend|{_any_of(WEEKDAYS)}) (?:of|in)",
         _nth_of),
        (rf"(?:(?P<count>[0-9]{{1,3}}|{_any_of(_COUNTS)}) )?"
         rf"(?P<unit>{_any_of([*_UNIT_DAYS, *WEEKDAYS])})s? (?P<side>before|after)", _beside),
        (rf"(?P<part>{_PARTS})", _part_of),
        (r"(?:by|as of|until|till|up to|no later than)", _up_to),
        (r"(?:before|prior to)", _before),
        (r"since", _since),
        (r"after", _after),
    )
)  # fmt: skip
