"""`python -m quotactl`, the same as `quotactl`."""

import sys

from quotactl.cli import main

if __name__ == "__main__":
    sys.exit(main())
