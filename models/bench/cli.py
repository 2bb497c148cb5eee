"""`ureca bench`: measurements that print a table and end with one JSON line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

BENCHES = {
    "engine": (
        "ureca.models.bench.engine_bench",
        "our engine (image encoded once) against one region at a time, PyTorch, transformers",
    ),
    "node": ("ureca.node.bench.cli", "a node from capture to caption; frames are sent on time"),
    "track": (
        "ureca.node.bench.track_cli",
        "masks tracked through clips, compared with the true ones",
    ),
    "report": (
        "ureca.models.bench.report",
        "one page of what `engine` and `node` wrote, to send to others",
    ),
}
"""Module and summary by name; modules are imported by name, so that no package imports another."""

_EPILOG = """example:
  ureca bench engine --bundle BUNDLE --regions 1,4,8 --frames 20
  ureca bench node --regions 8 --fps 30 --duration 20
  ureca bench report engine.json node.json -o report.html

`ureca bench NAME --help` explains one bench."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in BENCHES:
        return int(importlib.import_module(BENCHES[arguments[0]][0]).main(arguments[1:]))
    benches = "\n".join(f"  {name:<8}{summary}" for name, (_, summary) in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="ureca bench",
        description=f"benches:\n{benches}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bench", choices=sorted(BENCHES))
    parser.parse_args(arguments[:1])
    raise AssertionError  # not reached: the parser has refused the unknown name
