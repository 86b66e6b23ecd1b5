"""Which grants pay, and what a refund gives back to whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.policy.burndown import burn, give_back, usable
from quotactl.policy.model import Grant

NOW = 1_000

grants = st.lists(
    st.tuples(
        st.integers(-2, 2),
        st.none() | st.integers(NOW - 5, NOW + 5),
        st.booleans(),
        st.integers(0, 9),
    ),
    max_size=6,
).map(
    lambda rows: (
        tuple(Grant(n, priority, ends, ended) for n, (priority, ends, ended, _) in enumerate(rows)),
        {n: balance for n, (*_, balance) in enumerate(rows)},
    )
)


def after(balances: dict[int, int], burns: tuple[tuple[int, int], ...]) -> dict[int, int]:
    left = dict(balances)
    for grant_id, units in burns:
        left[grant_id] -= units
    return left


@given(pool=grants, data=st.data())
def test_burning_in_parts_is_burning_the_whole(
    pool: tuple[tuple[Grant, ...], dict[int, int]], data: st.DataObject
) -> None:
    owned, balances = pool
    whole = data.draw(st.integers(0, usable(owned, balances, NOW)))
    part = data.draw(st.integers(0, whole))
    left = after(balances, burn(owned, balances, part, NOW))
    left = after(left, burn(owned, left, whole - part, NOW))
    assert left == after(balances, burn(owned, balances, whole, NOW))


@given(pool=grants, data=st.data())
def test_grants_pay_what_is_asked_never_more_than_they_have(
    pool: tuple[tuple[Grant, ...], dict[int, int]], data: st.DataObject
) -> None:
    owned, balances = pool
    amount = data.draw(st.integers(0, usable(owned, balances, NOW)))
    burns = burn(owned, balances, amount, NOW)
    assert sum(units for _, units in burns) == amount
    assert all(1 <= units <= balances[grant_id] for grant_id, units in burns)
    live = {
        g.id for g in owned if not g.ended and (g.expires_at_ms is None or g.expires_at_ms > NOW)
    }
    assert {grant_id for grant_id, _ in burns} <= live


@given(pool=grants, data=st.data())
def test_a_grant_burns_only_when_those_before_it_are_empty(
    pool: tuple[tuple[Grant, ...], dict[int, int]], data: st.DataObject
) -> None:
    owned, balances = pool
    amount = data.draw(st.integers(0, usable(owned, balances, NOW)))
    left = after(balances, burn(owned, balances, amount, NOW))
    by_hand = sorted(
        (g for g in owned if not g.ended and (g.expires_at_ms is None or g.expires_at_ms > NOW)),
        key=lambda g: (g.priority, g.expires_at_ms is None, g.expires_at_ms or 0, g.id),
    )
    spent = [balances[g.id] - left[g.id] for g in by_hand]
    touched = [n for n, units in enumerate(spent) if units]
    if touched:
        assert all(left[g.id] == 0 for g in by_hand[: touched[-1]])


@given(pool=grants)
def test_more_than_there_is_is_not_paid(
    pool: tuple[tuple[Grant, ...], dict[int, int]],
) -> None:
    owned, balances = pool
    with pytest.raises(ValueError, match="short"):
        burn(owned, balances, usable(owned, balances, NOW) + 1, NOW)


@pytest.mark.parametrize(
    ("owned", "order"),
    [
        ([Grant(1, 5, None), Grant(2, 0, None)], [2, 1]),
        ([Grant(1, 0, None), Grant(2, 0, NOW + 9)], [2, 1]),
        ([Grant(1, 0, NOW + 9), Grant(2, 0, NOW + 3)], [2, 1]),
        ([Grant(2, 0, None), Grant(1, 0, None)], [1, 2]),
        ([Grant(1, 0, NOW + 1), Grant(2, -1, None)], [2, 1]),
        ([Grant(1, 0, NOW), Grant(2, 0, NOW + 1)], [2]),  # the end is excluded
        ([Grant(1, 0, None, ended=True), Grant(2, 9, None)], [2]),
    ],
)
def test_priority_then_expiry_then_age(owned: list[Grant], order: list[int]) -> None:
    balances = {g.id: 3 for g in owned}
    amount = 3 * len(order)
    assert [grant_id for grant_id, _ in burn(owned, balances, amount, NOW)] == order


paid = st.lists(st.integers(0, 9), max_size=5).map(lambda units: tuple(enumerate(units)))


@given(paid=paid, amount=st.integers(0, 60))
def test_grants_never_get_back_more_than_they_paid(
    paid: tuple[tuple[int, int], ...], amount: int
) -> None:
    back, rest = give_back(paid, amount)
    assert sum(units for _, units in back) + rest == amount
    assert all(1 <= units <= dict(paid)[grant_id] for grant_id, units in back)
    assert len({grant_id for grant_id, _ in back}) == len(back)
    # Windows get something only once the grants have all of theirs.
    assert rest == max(0, amount - sum(units for _, units in paid))


@given(paid=paid, one=st.integers(0, 30), other=st.integers(0, 30))
def test_giving_back_in_parts_is_giving_back_the_whole(
    paid: tuple[tuple[int, int], ...], one: int, other: int
) -> None:
    def outstanding(burns: tuple[tuple[int, int], ...], amount: int) -> tuple[tuple[int, int], ...]:
        back = dict(give_back(burns, amount)[0])
        return tuple((grant_id, units - back.get(grant_id, 0)) for grant_id, units in burns)

    assert outstanding(outstanding(paid, one), other) == outstanding(paid, one + other)


@given(pool=grants, data=st.data())
def test_what_was_burnt_last_comes_back_first(
    pool: tuple[tuple[Grant, ...], dict[int, int]], data: st.DataObject
) -> None:
    owned, balances = pool
    whole = data.draw(st.integers(0, usable(owned, balances, NOW)))
    kept = data.draw(st.integers(0, whole))
    burns = burn(owned, balances, whole, NOW)
    back, rest = give_back(burns, whole - kept)
    left = after(balances, burns)
    for grant_id, units in back:
        left[grant_id] += units
    assert rest == 0
    # As if only what was kept had been burnt.
    assert left == after(balances, burn(owned, balances, kept, NOW))


def test_the_example_of_the_docstring() -> None:
    assert give_back(((1, 2), (2, 3)), 4) == (((2, 3), (1, 1)), 0)
