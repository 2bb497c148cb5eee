"""The node without sockets, whose counters must balance after every fault."""

from tests.node.conftest import _conserved  # noqa: F401  (a fixture)
