"""`python -m subscape`, and `torchrun -m subscape`."""

import sys

from subscape.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
