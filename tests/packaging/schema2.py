"""How `schema2.db` and `schema2.json` were made: the ledger of `schema1.py` and what emergency
controls added, by the last version whose schema was 2, and what that version decided on it.

    git worktree add /tmp/v2 91cd020
    PYTHONPATH=/tmp/v2 python tests/packaging/schema2.py tests/packaging
    git worktree remove /tmp/v2
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from schema1 import Life, make


class LaterLife(Life):
    """The same, with a total, and a ramp that is held."""

    def today(self) -> None:
        super().today()
        self.admin.throttle_on(
            total="60/day", resources=["image"], name="gpus", duration="8h", reason="what there is"
        )
        assert self.take("zed", 1)
        self.admin.throttle_on(
            ramp="50%,100%", every="2h", tiers=["plus"], message="busy", name="slow", reason="hot"
        )
        self.admin.throttle_hold("slow", reason="wait and see")


if __name__ == "__main__":
    make(Path(sys.argv[1]), "schema2", LaterLife)
