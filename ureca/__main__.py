"""`python -m ureca` is `ureca`."""

from ureca.cli import script

script()
