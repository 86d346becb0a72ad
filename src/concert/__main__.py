"""`python -m concert` is the command `concert`."""

import sys

from concert.cli import main

sys.exit(main())
