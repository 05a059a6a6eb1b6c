"""`python -m refta_profiler`."""

import sys

from refta_profiler.cli import main

if __name__ == "__main__":
    sys.exit(main())
