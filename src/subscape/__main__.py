"""`python -m subscape`, and `torchrun -m subscape`."""

import sys

from subscape.cli.main import main

sys.exit(main())
