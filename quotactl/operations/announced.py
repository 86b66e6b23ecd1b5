"""Which acts the host's commands are told of."""

from __future__ import annotations

ANNOUNCED = ("throttle", "enforcement", "preset")
"""What the actions of such acts begin with."""

# The id and hash of an audit row.
Announced = tuple[int, str]
