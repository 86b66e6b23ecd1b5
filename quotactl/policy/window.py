"""Periods and the windows they cut time into.

Times are integer milliseconds since the epoch, UTC. A `day`, `week` and
`month` follow the calendar of the ledger's zone; shorter periods are absolute
time, aligned to the epoch.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from quotactl.errors import InvalidInput

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
HALF_DAY_MS = 12 * HOUR_MS
DAY_MS = 24 * HOUR_MS
# Of any zone since 1970: Vostok, 1994-01-31. Troll has one of 26 hours every October.
DAY_LONGEST_MS = 31 * HOUR_MS
DAY_LENGTH_MIN = 1440


class Period(NamedTuple):
    """A recurrence: `minute`, `hour`, `5m`, `3h`, `day`, `week` or `month`.

    `length_min` is the nominal length in minutes: exact below a day, and for
    day, week and month (1440, 10080, 43200) only a name that sorts.
    """

    name: str
    length_min: int

    @property
    def shorter_than_day(self) -> bool:
        return self.length_min < DAY_LENGTH_MIN

    def __str__(self) -> str:
        return self.name


DAY = Period("day", DAY_LENGTH_MIN)
WEEK = Period("week", 10080)
MONTH = Period("month", 43200)


@lru_cache(maxsize=256)
def period_of_length(length_min: int) -> Period:
    """The period of that nominal length: 60 is `hour`, 90 is `90m`, 1440 is `day`."""
    for calendar_period in (DAY, WEEK, MONTH):
        if calendar_period.length_min == length_min:
            return calendar_period
    if not 1 <= length_min < DAY_LENGTH_MIN:
        raise ValueError(f"no period lasts {length_min} minutes")
    if length_min == 1:
        return Period("minute", 1)
    if length_min == 60:
        return Period("hour", 60)
    if length_min % 60 == 0:
        return Period(f"{length_min // 60}h", length_min)
    return Period(f"{length_min}m", length_min)


class Window(NamedTuple):
    """One concrete half-open span `[starts_at_ms, reset_at_ms)`."""

    starts_at_ms: int
    reset_at_ms: int


def to_ms(at: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime, rounded down."""
    if at.tzinfo is None:
        raise InvalidInput("a time without a zone is no moment", hint="pass an aware datetime")
    return (at - _EPOCH) // _MILLISECOND


def from_ms(at_ms: int) -> datetime:
    """The aware UTC datetime of a count of milliseconds since the epoch."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def moment_of(at_ms: int | None) -> datetime | None:
    """The same for a moment that may never come."""
    return None if at_ms is None else from_ms(at_ms)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Calendar:
    """The days, weeks and months of one zone.

    A day runs from the first instant that bears its date to the first instant
    of the next date: 23 or 25 hours where clocks change, 0 hours where a zone
    skipped the date (Apia, 2011-12-30), and never a gap or an overlap.
    """

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._starts: dict[date, int] = {}
        # Decisions arrive in order of time, so the day last asked for is
        # nearly always the one asked for next.
        self._day = Window(0, 0)

    def window(self, period: Period, at_ms: int) -> Window:
        """The window of `period` that contains `at_ms`: start included, end excluded."""
        length_min = period.length_min
        if length_min < DAY_LENGTH_MIN:
            length_ms = length_min * MINUTE_MS
            start = at_ms - at_ms % length_ms
            return Window(start, start + length_ms)
        if length_min == DAY_LENGTH_MIN:
            return self.day(at_ms)
        on = self.date_of(at_ms)
        if length_min == WEEK.length_min:
            first = on - timedelta(days=on.weekday())
            following = first + timedelta(days=7)
        else:
            first = on.replace(day=1)
            following = (first + timedelta(days=32)).replace(day=1)
        return Window(self.start_of(first), self.start_of(following))

    def day(self, at_ms: int) -> Window:
        """The calendar day that contains `at_ms`."""
        day = self._day
        if day.starts_at_ms <= at_ms < day.reset_at_ms:
            return day
        on = self.date_of(at_ms)
        day = Window(self.start_of(on), self.start_of(on + timedelta(days=1)))
        self._day = day
        return day

    def date_of(self, at_ms: int) -> date:
        """The date of the day that contains `at_ms`.

        Usually what the wall clock shows. Where clocks went back over midnight
        the old date shows again; those minutes belong to the day that began.
        """
        on = datetime.fromtimestamp(at_ms // 1000, self.zone).date()
        while at_ms < self.start_of(on):
            on -= timedelta(days=1)
        while at_ms >= self.start_of(on + timedelta(days=1)):
            on += timedelta(days=1)
        return on

    def start_of(self, on: date) -> int:
        """The first instant that bears the date `on`, or, where the zone skipped
        it, the first instant after."""
        start = self._starts.get(on)
        if start is None:
            if len(self._starts) > 4096:
                self._starts.clear()
            start = self._starts[on] = _first_instant(on, self.zone)
        return start

    def day_starts(self, window: Window) -> list[int]:
        """The starts of the days that have an instant in `window`, in order."""
        starts = []
        on = self.date_of(window.starts_at_ms)
        while (start := self.start_of(on)) < window.reset_at_ms:
            following = self.start_of(on + timedelta(days=1))
            if following > start:
                starts.append(start)
            on += timedelta(days=1)
        return starts

    def begins_a_day(self, at_ms: int) -> bool:
        """Whether a day starts at that very moment."""
        return self.start_of(self.date_of(at_ms)) == at_ms

    def day_charged(self, starts_at_ms: int) -> Window:
        """The day for which a counter counts that bears this start.

        It is the day that began then, unless the zone has other rules now than when the
        counter was written: then the one that holds its noon, and with it most of it.
        So what was used is counted in one day, neither twice nor in none, and stands in
        nobody's way for longer than a day. Its start may lie hours before or after.
        """
        return self.day(starts_at_ms + HALF_DAY_MS)

    def hour_of(self, at_ms: int) -> int:
        """The start of the hour that contains `at_ms`, counted from the day's start.

        Hours counted so never straddle two days, also in zones that are half an
        hour off, so that hourly figures add up to a day's.
        """
        start = self.day(at_ms).starts_at_ms
        return at_ms - (at_ms - start) % HOUR_MS


@lru_cache(maxsize=64)
def calendar_of(zone_name: str) -> Calendar:
    """The calendar of a zone by its IANA name; raises `ZoneInfoNotFoundError` or `ValueError`."""
    return Calendar(ZoneInfo(zone_name))


def window_at(period: Period, zone: ZoneInfo, at: datetime) -> tuple[datetime, datetime]:
    """The window of `period` that contains `at`: start included, end excluded.

    A day is the zone's calendar day, so it can last 23 or 25 hours.
    """
    window = Calendar(zone).window(period, to_ms(at))
    return from_ms(window.starts_at_ms), from_ms(window.reset_at_ms)


def _first_instant(on: date, zone: ZoneInfo) -> int:
    midnight = datetime(on.year, on.month, on.day)  # noqa: DTZ001 - what the wall shows
    # Read with the offset before (fold 0) and after (fold 1) a change of clocks;
    # the two differ only where midnight happens twice or not at all.
    before = midnight.replace(tzinfo=zone)
    at_s = int(before.timestamp())
    if datetime.fromtimestamp(at_s, zone).replace(tzinfo=None) == midnight:
        return at_s * 1000
    # Midnight was skipped: the day starts where the clocks jumped, which lies
    # between the two readings.
    low, high = sorted((at_s, int(before.replace(fold=1).timestamp())))
    while low < high:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) >= midnight:
            high = middle
        else:
            low = middle + 1
    return low * 1000
