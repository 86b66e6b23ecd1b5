"""The ledger's settings: what each may be and what it is when nobody set it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quotactl.errors import InvalidInput, NotFound
from quotactl.frozen import frozen
from quotactl.policy.notation import duration_text, parse_amount, parse_duration, parse_percent
from quotactl.policy.window import DAY_MS


@frozen
class Setting:
    """`read` turns what people write into the text that is stored, or raises InvalidInput."""

    key: str
    default: str
    help: str
    read: Callable[[str], str]


def _durability(text: str) -> str:
    if text not in ("full", "relaxed"):
        raise InvalidInput(f"durability {text!r} is not known", hint="it is full or relaxed")
    return text


def _days_at_least(least: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        duration_ms = parse_duration(text)
        if duration_ms < least * DAY_MS or duration_ms > 3650 * DAY_MS:
            raise InvalidInput(
                f"{text!r} is out of range", hint=f"at least {least}d, at most 3650d"
            )
        return duration_text(duration_ms)

    return read


def _count_or_all(text: str) -> str:
    return text if text == "all" else str(parse_amount(text, "count"))


def _percentage(text: str) -> str:
    return f"{parse_percent(text)}%"


SETTINGS: Mapping[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            "backup_keep",
            "all",
            "how many of its backups a folder keeps, the newest: 14, or all",
            _count_or_all,
        ),
        Setting(
            "counter_retention",
            "400d",
            "how long day counters and hourly demand are kept",
            _days_at_least(62),
        ),
        Setting(
            "durability",
            "full",
            "full: an acknowledged unit survives a power cut; relaxed: the last moments may not",
            _durability,
        ),
        Setting(
            "entry_retention",
            "35d",
            "how long entries are kept once their windows, holds and keys are over",
            _days_at_least(1),
        ),
        Setting(
            "impact_limit",
            "50%",
            "the share of the active users above which a throttle asks before it cuts them off",
            _percentage,
        ),
        Setting("key_retention", "30d", "how long idempotency keys are kept", _days_at_least(1)),
    )
}


def setting_named(key: str) -> Setting:
    """Raises NotFound for a key that does not exist."""
    found = SETTINGS.get(key)
    if found is None:
        raise NotFound(f"no setting {key!r}", hint="known are " + ", ".join(SETTINGS))
    return found


def value_of(settings: Mapping[str, str], key: str) -> str:
    """The value in force: what was set, else the default."""
    return settings.get(key, SETTINGS[key].default)


def duration_of(settings: Mapping[str, str], key: str) -> int:
    """The same, in milliseconds."""
    return parse_duration(value_of(settings, key))
