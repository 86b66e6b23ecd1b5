"""Settings: what they are unless set, and what they may be set to."""

from __future__ import annotations

import pytest

from quotactl.errors import InvalidInput, NotFound
from quotactl.policy.settings import SETTINGS, duration_of, setting_named, value_of

DAY_MS = 86_400_000


def test_what_is_not_set_has_its_default() -> None:
    assert {key: value_of({}, key) for key in SETTINGS} == {
        "backup_keep": "all",
        "counter_retention": "400d",
        "durability": "full",
        "entry_retention": "35d",
        "impact_limit": "50%",
        "key_retention": "30d",
    }


def test_what_is_set_holds() -> None:
    assert value_of({"durability": "relaxed"}, "durability") == "relaxed"
    assert duration_of({"key_retention": "7d"}, "key_retention") == 7 * DAY_MS
    assert duration_of({}, "key_retention") == 30 * DAY_MS


@pytest.mark.parametrize(
    ("key", "text", "kept"),
    [
        ("backup_keep", "all", "all"),
        ("backup_keep", "1", "1"),
        ("backup_keep", "2k", "2000"),
        ("counter_retention", "62d", "62d"),
        ("counter_retention", "3650d", "3650d"),
        ("durability", "full", "full"),
        ("durability", "relaxed", "relaxed"),
        ("entry_retention", "24h", "1d"),
        ("impact_limit", "0%", "0%"),
        ("impact_limit", "100%", "100%"),
        ("key_retention", "1d", "1d"),
        ("key_retention", "3650d", "3650d"),
    ],
)
def test_a_setting_is_kept_in_one_way_of_writing(key: str, text: str, kept: str) -> None:
    assert setting_named(key).read(text) == kept


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("backup_keep", "0", "count 0"),
        ("backup_keep", "ALL", "count 'ALL'"),
        ("counter_retention", "61d", "'61d' is out of range"),
        ("counter_retention", "3650d1m", "'3650d1m' is out of range"),
        ("durability", "Full", "durability 'Full' is not known"),
        ("entry_retention", "23h", "'23h' is out of range"),
        ("impact_limit", "101%", "101"),
        ("key_retention", "3651d", "'3651d' is out of range"),
    ],
)
def test_what_a_setting_can_not_be_is_refused(key: str, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        setting_named(key).read(text)


def test_an_unknown_setting_is_not_found() -> None:
    with pytest.raises(NotFound, match="no setting 'colour'"):
        setting_named("colour")
