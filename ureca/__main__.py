"""`python -m ureca` is `ureca`."""

import sys

from ureca.cli import main

sys.exit(main())
