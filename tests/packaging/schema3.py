"""How `schema3.db` and `schema3.json` were made: the ledger of `schema2.py` by the last version
whose schema was 3, and what that version decided on it.

    git worktree add /tmp/v3 a82e9ca
    PYTHONPATH=/tmp/v3 python tests/packaging/schema3.py tests/packaging
    git worktree remove /tmp/v3
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from schema1 import make
from schema2 import LaterLife

if __name__ == "__main__":
    make(Path(sys.argv[1]), "schema3", LaterLife)
