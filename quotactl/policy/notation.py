"""How people write ids, amounts, limits, durations and moments.

Every function raises InvalidInput with one line that names what was written
and a hint that shows what would do.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime, timedelta

from quotactl.errors import InvalidInput
from quotactl.policy.model import AMOUNT_MAX, Limit
from quotactl.policy.window import (
    DAY,
    DAY_LENGTH_MIN,
    MONTH,
    WEEK,
    Calendar,
    Period,
    from_ms,
    period_of_length,
    to_ms,
)

ID_LENGTH_MAX = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z")
_NUMBER = re.compile(r"([0-9]{1,400})([kM]?)\Z")
_PERIOD = re.compile(r"([0-9]{1,6})(m|h|d)\Z")
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?\Z"
)
_CLOCK = re.compile(r"(?:(today|tomorrow) +)?([0-9]{1,2}):([0-9]{2})\Z")
_LOCAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{1,2}):([0-9]{2})\Z")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)
_SHORT_PERIODS = {"minute": 1, "hour": 60}
_CALENDAR_PERIODS = {p.name: p for p in (DAY, WEEK, MONTH)}
_PERIODS_HINT = "known are minute, hour, day, week, month, and multiples such as 5m or 3h"

# Far enough for any window that is asked for, near enough for any date to exist.
INSTANT_MAX_MS = to_ms(datetime(9000, 1, 1, tzinfo=UTC))


def shown(text: object) -> str:
    """What was written, as one safe line in quotes, shortened where it is long."""
    try:
        quoted = ascii(text)
    except ValueError:
        # Python writes no number of more than 4300 digits; TOML reads one, in hex.
        return "a number of thousands of digits"
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."


def check_id(text: object, what: str) -> str:
    """An id from outside: 1 to 256 characters, none of them a control character.

    Returns it as it came. Everything else (spaces, markup, quotes) is allowed
    here and neutralised where it is printed.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {shown(text)}")
    if not text or text.isspace():
        raise InvalidInput(f"{what} is empty")
    if len(text) > ID_LENGTH_MAX:
        raise InvalidInput(f"{what} has {len(text)} characters", hint=f"at most {ID_LENGTH_MAX}")
    if not text.isprintable():
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
                raise InvalidInput(f"{what} {shown(text)} has a control character in it")
    return text


def plainly_an_id(text: object) -> bool:
    """Whether `check_id` passes something at a glance; it may pass what this does not."""
    return (
        type(text) is str
        and 0 < len(text) <= ID_LENGTH_MAX
        and (
            # What is printable has no control characters, and no spaces but the plain one.
            text.isprintable() and text[0] != " "
        )
    )


def could_be_an_id(number: object) -> bool:
    """Whether something can be the id of an entry, grant or switch: 1 to 2^63 - 1."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**63


def check_name(text: object, what: str) -> str:
    """The name of a tier, resource or switch: what fits into `image=3/day` and a file's key."""
    if not isinstance(text, str) or not _NAME.match(text):
        raise InvalidInput(
            f"{what} {shown(text)} is no name",
            hint="letters, digits, and _ . : - between them; at most 64",
        )
    return text


def check_text(text: object, what: str, *, length_max: int = 2000) -> None:
    """A free text such as a reason: not empty, and one that can be stored as UTF-8."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"{what} is empty")
    if len(text) > length_max:
        raise InvalidInput(f"{what} has {len(text)} characters", hint=f"at most {length_max}")
    if not text.isprintable():
        for character in text:
            if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs"):
                raise InvalidInput(f"{what} {shown(text)} has a control character in it")


def check_unit(text: object, what: str = "unit") -> None:
    """What one of a resource is called: `image`."""
    check_text(text, what, length_max=64)


def check_amount(amount: object, what: str = "amount") -> int:
    """An integer from 1 to 2^53 - 1."""
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise InvalidInput(f"{what} {shown(amount)} is not a whole number")
    if not 1 <= amount <= AMOUNT_MAX:
        raise InvalidInput(f"{what} {amount} is out of range", hint="1 to 2^53 - 1")
    return amount


def parse_number(text: str, what: str = "amount") -> int:
    """`3`, `40k` or `2M`, from 0 to 2^53 - 1. ASCII digits only."""
    match = _NUMBER.match(text)
    if match is None:
        raise InvalidInput(
            f"{what} {shown(text)} is not a whole number", hint="such as 3, 40k or 2M"
        )
    number = int(match[1]) * {"": 1, "k": 1000, "M": 1_000_000}[match[2]]
    if number > AMOUNT_MAX:
        raise InvalidInput(f"{what} {shown(text)} is out of range", hint="at most 2^53 - 1")
    return number


def parse_amount(text: str, what: str = "amount") -> int:
    """The same, from 1 on."""
    return check_amount(parse_number(text, what), what)


def parse_percent(text: str) -> int:
    """`25%`: a whole percentage from 0 to 100."""
    if not text.endswith("%"):
        raise InvalidInput(f"scale {shown(text)} has no percent sign", hint="such as 25%")
    percent = parse_number(text[:-1], "scale")
    if percent > 100:
        raise InvalidInput(f"scale {shown(text)} is out of range", hint="0% to 100%")
    return percent


def parse_period(text: str) -> Period:
    """`minute`, `hour`, `day`, `week`, `month`, or a multiple under a day: `5m`, `3h`."""
    if text in _CALENDAR_PERIODS:
        return _CALENDAR_PERIODS[text]
    if text in _SHORT_PERIODS:
        return period_of_length(_SHORT_PERIODS[text])
    match = _PERIOD.match(text)
    if match is None:
        raise InvalidInput(f"period {shown(text)} is not known", hint=_PERIODS_HINT)
    length_min = int(match[1]) * {"m": 1, "h": 60, "d": DAY_LENGTH_MIN}[match[2]]
    if length_min >= DAY_LENGTH_MIN:
        raise InvalidInput(
            f"period {shown(text)} is not kept: days follow the calendar",
            hint="write day, week or month",
        )
    if length_min < 1:
        raise InvalidInput(f"period {shown(text)} is empty", hint=_PERIODS_HINT)
    return period_of_length(length_min)


def parse_limit(text: str) -> tuple[Limit, ...]:
    """`50/day,5/minute` or `unlimited`, shortest period first.

    Bare `unlimited` stands for a day that has no ceiling; `0/day` is none.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"limit {shown(text)} is not a text", hint="such as 3/day")
    limits: dict[Period, Limit] = {}
    for part in text.split(","):
        number, slash, per = part.strip().partition("/")
        if not slash and number != "unlimited":
            raise InvalidInput(
                f"limit {shown(part)} has no period", hint="such as 3/day, 5/minute or unlimited"
            )
        period = parse_period(per) if slash else DAY
        amount_max = None if number == "unlimited" else parse_number(number, "limit")
        if period in limits:
            raise InvalidInput(f"limit {shown(text)} names {period} twice")
        limits[period] = Limit(period, amount_max)
    return tuple(sorted(limits.values(), key=lambda limit: limit.period.length_min))


def limit_text(limits: tuple[Limit, ...]) -> str:
    """How limits are written: the reverse of `parse_limit`, longest period first."""
    ordered = sorted(limits, key=lambda limit: -limit.period.length_min)
    return ",".join(str(limit) for limit in ordered)


def parse_assignment(
    text: str, what: str = "value", *, example: str = "image=3/day"
) -> tuple[str, str]:
    """`image=3/day` as ("image", "3/day")."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidInput(
            f"{what} {shown(text)} is not of the form RESOURCE=VALUE", hint=f"such as {example}"
        )
    return name, value


def parse_duration(text: str) -> int:
    """`30m`, `2h`, `1h30m`, `7d`, `90s`, in milliseconds; longer than nothing.

    A bare number is refused: nobody remembers its unit at 3 a.m.
    """
    match = _DURATION.match(text)
    if match is None or not text:
        raise InvalidInput(
            f"duration {shown(text)} is not understood",
            hint="write the unit: 30m, 2h, 1h30m or 7d",
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration_ms = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000
    if duration_ms == 0:
        raise InvalidInput(f"duration {shown(text)} is empty")
    if duration_ms > INSTANT_MAX_MS:
        raise InvalidInput(f"duration {shown(text)} is out of range")
    return duration_ms


def duration_text(duration_ms: int) -> str:
    """How a duration is written: `1h30m`, `7d`; parts of a second are left out."""
    seconds = duration_ms // 1000
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_instant(text: str, *, now_ms: int, calendar: Calendar) -> int:
    """A moment: RFC 3339, `18:00` (the next one), `tomorrow 09:00`, `2025-03-28 09:00`.

    Those without an offset are read in the ledger's zone. Of a time that comes
    twice the first is meant, or the next one where no day is given; one that the clocks
    skip lies as far behind the jump as it would have lain in the gap (02:30 becomes 03:30).
    """
    if _RFC3339.match(text):
        return parse_rfc3339(text)
    today = calendar.date_of(now_ms)
    if (match := _CLOCK.match(text)) is not None:
        if match[1] is not None:
            on = today + timedelta(days=1) if match[1] == "tomorrow" else today
            return _local_ms(on, match[2], match[3], calendar, text)
        # Where clocks go back the next one can be the second of a day, or of the day before.
        days = [today + timedelta(days=days) for days in (-1, 0, 1)]
        at = [_local_ms(on, match[2], match[3], calendar, text) for on in days]
        at += [_local_ms(on, match[2], match[3], calendar, text, fold=1) for on in days]
        return min(at_ms for at_ms in at if at_ms > now_ms)
    if (match := _LOCAL.match(text)) is not None:
        return _local_ms(parse_date(match[1]), match[2], match[3], calendar, text)
    raise _no_instant(text)


def parse_rfc3339(text: str) -> int:
    """`2025-03-28T09:00:00Z` or with an offset, in milliseconds since the epoch."""
    if not _RFC3339.match(text):
        raise _no_instant(text)
    try:
        at_ms = to_ms(datetime.fromisoformat(text.upper().replace(" ", "T")))
    except (ValueError, OverflowError):
        raise _no_instant(text) from None
    if not 0 <= at_ms < INSTANT_MAX_MS:
        raise InvalidInput(f"time {shown(text)} is out of range")
    return at_ms


def parse_date(text: str) -> date:
    """`2025-03-28`, in the years 1970 to 8999: a calendar has days beside it too."""
    try:
        if len(text) != 10:
            raise ValueError
        on = date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"day {shown(text)} is not a date", hint="such as 2025-03-28") from None
    if not 1970 <= on.year < 9000:
        raise InvalidInput(f"day {shown(text)} is out of range")
    return on


def instant_text(at_ms: int | None, calendar: Calendar) -> str:
    """A moment for people: in the ledger's zone, with its offset; None is `never`."""
    if at_ms is None:
        return "never"
    local = from_ms(at_ms).astimezone(calendar.zone)
    return local.strftime("%Y-%m-%d %H:%M:%S %Z").replace(":00 ", " ", 1)


def _local_ms(
    on: date, hour: str, minute: str, calendar: Calendar, text: str, *, fold: int = 0
) -> int:
    """A time of day; with `fold` 1 the second of one that comes twice."""
    try:
        local = datetime(on.year, on.month, on.day, int(hour), int(minute), tzinfo=calendar.zone)
    except ValueError:
        raise _no_instant(text) from None
    # In a gap the other reading lies before it: that is no time of its own.
    return int(max(local.timestamp(), local.replace(fold=fold).timestamp())) * 1000


def _no_instant(text: str) -> InvalidInput:
    return InvalidInput(
        f"time {shown(text)} is not understood",
        hint="such as 2025-03-28T09:00:00Z, 18:00 or 'tomorrow 09:00'",
    )
