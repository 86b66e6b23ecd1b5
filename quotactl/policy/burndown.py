"""Which grants pay, and where a refund goes back to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quotactl.policy.model import Grant

Burn = tuple[int, int]
"""(grant id, units)."""


def usable(grants: Iterable[Grant], balances: Mapping[int, int], now_ms: int) -> int:
    """The units that grants could pay at `now_ms`."""
    return sum(balances.get(g.id, 0) for g in grants if g.usable_at(now_ms))


def burn(
    grants: Iterable[Grant], balances: Mapping[int, int], amount: int, now_ms: int
) -> tuple[Burn, ...]:
    """Take `amount` from the grants in burn order.

    The caller has seen that `usable()` covers it. Burning 5 and then 3 takes
    from the same grants as burning 8 at once.
    """
    burns = []
    left = amount
    for grant in sorted(grants, key=lambda g: g.burn_order):
        if left == 0:
            break
        if not grant.usable_at(now_ms):
            continue
        units = min(left, balances.get(grant.id, 0))
        if units:
            burns.append((grant.id, units))
            left -= units
    if left:
        raise ValueError(f"grants are {left} units short of {amount}")
    return tuple(burns)


def give_back(outstanding: Sequence[Burn], amount: int) -> tuple[tuple[Burn, ...], int]:
    """Split a refund of `amount` into units for grants and units for windows.

    `outstanding` is what grants paid and have not had back, in burn order; they
    get theirs first, the last burnt first. (("a", 2), ("b", 3)) and 4 units:
    3 to b, 1 to a, 0 to the windows.
    """
    burns = []
    left = amount
    for grant_id, paid in reversed(outstanding):
        units = min(left, paid)
        if units:
            burns.append((grant_id, units))
            left -= units
    return tuple(burns), left
