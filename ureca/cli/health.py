"""`ureca health`: check the health of a node, for people, containers and supervisors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from ureca.client.client import Client
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.security.keys import add_key_options, keys_of

_EPILOG = """examples:
  ureca health
  ureca health --requests ipc:///run/ureca/requests --timeout 2 --json

Exit status 0: the node runs, or is paused, and names no reason; 1: it names a reason, or starts,
drains or has stopped; 2: nobody answered. `/healthz` answers 200 exactly where this is 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the node's state. Raises `RequestError` (exit 2) when no node answers."""
    options = _parser().parse_args(argv)
    keys = keys_of(options)
    with Client.connect(
        EVENTS_ADDRESS, options.requests, timeout_s=options.timeout, keys=keys
    ) as client:
        health = client.health()
    if options.json:
        print(msgspec.json.encode(health).decode())
    else:
        print("; ".join([health.state, *health.reasons]))
    return 0 if health.is_healthy else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca health",
        description="Check the health of a running node.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--requests", default=REQUESTS_ADDRESS, help="address of the node's requests [%(default)s]"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=5.0,
        metavar="S",
        help="wait at most this long [%(default)s]",
    )
    add_key_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the whole reply as JSON, counters included"
    )
    return parser
