"""The node without sockets, whose books must balance after every fault."""

from tests.node.conftest import _conserved  # noqa: F401  (a fixture)
