"""Where the shipped bundle and the demo clip are, and opening the engine of a bundle."""

from __future__ import annotations

from pathlib import Path

import ureca.models
from ureca.engine import Engine
from ureca.models.runtime.load import load_engine

_PACKAGE = Path(ureca.models.__file__).parent
SHIPPED_BUNDLE = _PACKAGE / "pretrained" / "ureca-nano"


def open_engine(folder: str) -> Engine:
    """The engine of the bundle in `folder`; empty means the shipped one. Raises `BundleError`."""
    return load_engine(Path(folder) if folder else SHIPPED_BUNDLE)


def demo_clip() -> tuple[Path, Path] | None:
    """The demo clip and its prompts, in a checkout; None in an installed package, which has no
    configs.
    """
    folder = _PACKAGE.resolve().parent / "configs" / "demo"
    clip, prompts = folder / "tabletop.mp4", folder / "prompts.json"
    return (clip, prompts) if clip.is_file() and prompts.is_file() else None
