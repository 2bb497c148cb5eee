"""The page's files, read once; no other file of the disk is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file and its media type."""

    kind: str
    body: bytes


def files(folder: Path = _FOLDER) -> Mapping[str, StaticFile]:
    """The page's files by URL path; `/` is `index.html`."""
    found = {
        f"/{path.name}": StaticFile(_TYPES[path.suffix], path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.suffix in _TYPES
    }
    return {"/": found["/index.html"], **found}
