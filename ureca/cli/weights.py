"""`ureca weights`: list or download published weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ureca.errors import ConfigError
from ureca.weights import WEIGHTS, Weights, cached, get

_EPILOG = """examples:
  ureca weights list
  ureca weights get sam2-hiera-tiny
  ureca run --set segmenter.model=sam2-hiera-tiny --source clip.mp4"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`. Raises deliberate errors for the command line."""
    parser = argparse.ArgumentParser(
        prog="ureca weights",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("list", "get"))
    parser.add_argument("name", nargs="?", help="name of the weights")
    parser.add_argument("--dir", type=Path, help="folder for the weights [~/.cache/ureca]")
    parser.add_argument("--json", action="store_true", help="list as one JSON document")
    options = parser.parse_args(argv)
    if options.action == "list":
        entries = [_entry(one, options.dir) for one in WEIGHTS.values()]
        print(json.dumps(entries) if options.json else "\n\n".join(map(_text, entries)))
        return 0
    if options.name not in WEIGHTS:
        raise ConfigError(f"no weights {options.name!r}; there are {', '.join(sorted(WEIGHTS))}")
    print(get(WEIGHTS[options.name], options.dir))
    return 0


def _entry(weights: Weights, folder: Path | None) -> dict[str, Any]:
    into = cached(weights.name, folder)
    return {
        "name": weights.name,
        "what": weights.what,
        "source": weights.source,
        "package": weights.package,
        "version": weights.version,
        "licence": weights.licence,
        "bytes": weights.size,
        "folder": str(into),
        "here": all((into / file.name).is_file() for file in weights.files),
        "files": [
            {"name": file.name, "sha256": file.sha256, "bytes": file.size} for file in weights.files
        ],
    }


def _text(entry: dict[str, Any]) -> str:
    where = f"here: {entry['folder']}" if entry["here"] else "not here"
    lines = [
        f"{entry['name']}  {entry['bytes'] / 1e6:.0f} MB  {where}",
        f"  {entry['what']}",
        f"  {entry['source']}: {entry['package']} {entry['version']}; {entry['licence']}",
    ]
    lines += [f"  {one['sha256']}  {one['bytes']:>11}  {one['name']}" for one in entry["files"]]
    return "\n".join(lines)
