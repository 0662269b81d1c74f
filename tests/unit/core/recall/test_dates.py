"""Dates in questions: what is one, what is none, and how near a memory is to it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall.dates import SPANS_MAX, Span, closeness, spans_of

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)  # a Friday
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000


def days_of(question: str) -> list[str]:
    """The spans as texts: the first day, or "first..last" of several."""
    found = []
    for span in spans_of(question, NOW_MS):
        first, after = (
            datetime.fromtimestamp(ms / 1000, UTC).date() for ms in (span.start_ms, span.end_ms)
        )
        last = after - timedelta(days=1)
        found.append(f"{first}" if first == last else f"{first}..{last}")
    return found


@pytest.mark.parametrize(
    ("question", "days"),
    [
        # Days
        ("What did she eat on 7 May 2023?", "2023-05-07"),
        ("on the 7th of May, 2023", "2023-05-07"),
        ("on May 7th, 2023", "2023-05-07"),
        ("Sept. 5, 2021", "2021-09-05"),
        ("on 2023-05-07?", "2023-05-07"),
        ("2023/5/7", "2023-05-07"),
        ("29 February 2024", "2024-02-29"),
        ("What happened today", "2026-11-20"),
        ("what did Ben write yesterday?", "2026-11-19"),
        ("the day before yesterday", "2026-11-18"),
        ("who called last night", "2026-11-19"),
        ("what is planned for tomorrow", "2026-11-21"),
        # Weekdays
        ("last Friday", "2026-11-13"),
        ("last Tuesday", "2026-11-17"),
        ("next Friday", "2026-11-27"),
        ("this Monday", "2026-11-16"),
        ("on Sunday", "2026-11-15 2026-11-22"),
        ("the Sunday before October 25, 2022", "2022-10-23"),
        ("the Sunday before 23 October 2022", "2022-10-16"),
        ("on the Saturday after October 28, 2023", "2023-11-04"),
        ("the first Monday of May 2024", "2024-05-06"),
        ("the last Monday in May 2024", "2024-05-27"),
        # Weeks
        ("this week", "2026-11-16..2026-11-22"),
        ("last week?", "2026-11-09..2026-11-15"),
        ("What will she do next weekend", "2026-11-28..2026-11-29"),
        ("the first weekend of August 2023", "2023-08-05..2023-08-06"),
        ("over the weekend before 4th October, 2023", "2023-09-30..2023-10-01"),
        ("the last week of June 2023", "2023-06-24..2023-06-30"),
        ("the week after 5 May 2022", "2022-05-06..2022-05-12"),
        # Months
        ("in May 2023", "2023-05-01..2023-05-31"),
        ("May 2023", "2023-05-01..2023-05-31"),
        ("in 2023-12", "2023-12-01..2023-12-31"),
        ("What did she plan for last May?", "2026-05-01..2026-05-31"),
        ("last December", "2025-12-01..2025-12-31"),
        ("next February", "2027-02-01..2027-02-28"),
        ("this month", "2026-11-01..2026-11-30"),
        ("last month", "2026-10-01..2026-10-31"),
        ("early June 2020", "2020-06-01..2020-06-10"),
        ("mid-June 2020", "2020-06-11..2020-06-20"),
        ("at the end of June 2020", "2020-06-21..2020-06-30"),
        ("the second half of September 2022", "2022-09-16..2022-09-30"),
        # Seasons and years
        ("last summer", "2026-06-01..2026-08-31"),
        ("next spring", "2027-03-01..2027-05-31"),
        ("in the fall of 2021", "2021-09-01..2021-11-30"),
        ("winter 2021", "2021-12-01..2022-02-28"),
        ("in 2022", "2022-01-01..2022-12-31"),
        ("which year, 1999 or in 2001", "2001-01-01..2001-12-31"),
        ("last year", "2025-01-01..2025-12-31"),
        # Counted
        ("three days ago", "2026-11-17"),
        ("two weeks ago", "2026-11-03..2026-11-09"),
        ("a couple of days ago", "2026-11-18"),
        ("4 years ago", "2022-05-23..2023-05-22"),
        ("in the last 3 weeks", "2026-10-30..2026-11-20"),
        ("over the past few months", "2026-08-22..2026-11-20"),
        ("two days before 5 May 2022", "2022-05-03..2022-05-04"),
        # Open and from ... to
        ("by July 10, 2022", "1900-01-01..2022-07-10"),
        ("as of December 2023", "1900-01-01..2023-12-31"),
        ("before 2022", "1900-01-01..2021-12-31"),
        ("since 2021", "2021-01-01..2199-12-31"),
        ("after May 2023", "2023-06-01..2199-12-31"),
        ("from March to May 2022", "2022-03-01..2022-05-31"),
        ("between 3 May 2022 and 9 May 2022", "2022-05-03..2022-05-09"),
        ("between November and February 2022", "2021-11-01..2022-02-28"),
        ("between 2019 and 2022", "2019-01-01..2022-12-31"),
        ("from 2019 to 2022", "2019-01-01..2022-12-31"),
        # Two
        ("in May 2022 or in July 2023", "2022-05-01..2022-05-31 2023-07-01..2023-07-31"),
    ],
)
def test_a_date_is_its_days(question: str, days: str) -> None:
    assert days_of(question) == days.split()


def test_a_month_without_a_year_is_one_of_the_last() -> None:
    years = range(2026, 2021, -1)
    assert days_of("When did she go camping in June?") == [f"{y}-06-01..{y}-06-30" for y in years]
    assert days_of("from May to August")[0] == "2026-05-01..2026-08-31"
    assert days_of("from October")[0] == "2026-10-01..2026-10-31"
    assert days_of("in December")[0] == "2025-12-01..2025-12-31"
    assert days_of("on 29 February") == ["2024-02-29"]
    assert days_of("during the summer")[1] == "2025-06-01..2025-08-31"


@pytest.mark.parametrize(
    "question",
    [
        "",
        "what can the dog not eat",
        "May I ask?",
        "she may come",
        "Second, may we go?",
        "march with friends",
        "who will march through Graz?",
        "the second half of the game",
        "she did fall in love",
        "a spring in the sofa",
        "What did the sun do to Jan and April?",
        "What did Ann and June do?",
        "Where is room 2023b",
        "room 2024 has 12 chairs",
        "call 2023-0000",
        "30 Februaries",
        "2023-13-40",
        "What gift did I get from June?",
        "advice from May",
        "letter from April to Ben",
        "send it to June",
        "did they decide to march for climate",
        "the crowd of 2000 people",
        "in 2000 metres",
        "the best of 1999 songs",
        "may 20 people attend?",
        "which of the 12 may come",
        "the next one",
        "her past",
        "last but not least",
        "\u0000 \ud83d ago",
    ],
)
def test_words_that_are_no_date(question: str) -> None:
    assert days_of(question) == []


def test_a_day_that_does_not_exist_is_at_most_its_month() -> None:
    assert days_of("on 31 June 2022") == ["2022-06-01..2022-06-30"]


@given(
    text=st.lists(
        st.sampled_from(
            [
                *["in", "on", "last", "next", "may", "7th", "31", "29", "2022", "february", "of"],
                *["the first half", "monday", "before", "since", "from", "to", "between", "and"],
                *["a few weeks ago", "weekend", "by", "summer", "9999", "year", "0", "-"],
            ]
        ),
        max_size=14,
    ).map(" ".join)
    | st.text(max_size=40),
    now_ms=st.integers(-(1 << 50), 1 << 50),
)
def test_whatever_is_asked_whenever_spans_are_spans(text: str, now_ms: int) -> None:
    spans = spans_of(text, now_ms)
    assert len(spans) <= SPANS_MAX
    for span in spans:
        assert span.start_ms < span.end_ms
        assert span.start_ms % DAY_MS == span.end_ms % DAY_MS == 0


@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)))
def test_every_day_is_found_as_people_write_it(day: date) -> None:
    start_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    month = day.strftime("%B")  # the tests' machine speaks English
    for text in (f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}", f"{day}"):
        assert spans_of(f"What was on {text}?", NOW_MS) == [Span(start_ms, start_ms + DAY_MS)]


def test_nearness_falls_on_both_sides_and_sooner_before() -> None:
    days = np.array([-2, -1, 0, 0.99, 1, 3, 5]) * DAY_MS
    near = closeness(days.astype(np.int64), [Span(0, DAY_MS)])
    assert near == pytest.approx([0.25, 0.5, 1, 1, 1, 0.5, 0.25])
    both = closeness(days.astype(np.int64), [Span(0, DAY_MS), Span(3 * DAY_MS, 4 * DAY_MS)])
    assert both[5] == 1
    assert not closeness(days.astype(np.int64), []).any()


def test_long_after_the_longest_span_is_far() -> None:
    century = Span(-36_500 * DAY_MS, 0)
    assert closeness(np.array([365 * DAY_MS]), [century])[0] < 0.001
