"""How `schema4.db` and `schema4.json` were made: the ledger of `schema2.py` by the last version
whose schema was 4, and what that version decided on it.

    git worktree add /tmp/v4 f024752
    PYTHONPATH=/tmp/v4 python tests/packaging/schema4.py tests/packaging
    git worktree remove /tmp/v4
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from schema1 import make
from schema2 import LaterLife

if __name__ == "__main__":
    make(Path(sys.argv[1]), "schema4", LaterLife)
