"""Opens the engine of a bundle: the chosen one, or the shipped one."""

from __future__ import annotations

from pathlib import Path

from ureca.engine import Engine
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.pretrained import CHECKOUT_BUNDLE, demo_clip, shipped_bundle

__all__ = ["SHIPPED_BUNDLE", "demo_clip", "open_engine"]

SHIPPED_BUNDLE = CHECKOUT_BUNDLE


def open_engine(folder: str) -> Engine:
    """The engine of the bundle in `folder`; empty means the shipped one. Raises `BundleError`."""
    return load_engine(Path(folder) if folder else shipped_bundle())
