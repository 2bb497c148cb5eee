"""Opens the engine of a bundle: the configured one, or the shipped one."""

from __future__ import annotations

from pathlib import Path

from ureca.engine import Engine, is_remote, supports_scoring
from ureca.models.runtime.grounding import PLAIN_WEIGHTS, Grounder, load_weights
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.pretrained import (
    CHECKOUT_BUNDLE,
    find_bundle,
    find_demo_clip,
    require_bundle,
)

__all__ = [
    "NO_ATTRIBUTES",
    "NO_GROUNDING",
    "SHIPPED_BUNDLE",
    "find_bundle_of",
    "find_demo_clip",
    "open_engine",
    "open_grounder",
]

SHIPPED_BUNDLE = CHECKOUT_BUNDLE
NO_GROUNDING = (
    "the bundle {bundle} cannot score texts: it has no section 'grounding'. Take a bundle that has "
    "one (the shipped one, or export the checkpoint again)"
)
"""What is said where texts need grounding and there is none."""
NO_ATTRIBUTES = (
    "the bundle {bundle} answers no attributes: it has no section 'attributes'. Take a bundle that "
    "has one (the shipped one, or fit them: docs/attributes.md)"
)
"""What is said where attributes, or dense captions, are asked of a bundle without them."""
_SCRIPTED = "scripted"


def open_engine(folder: str) -> Engine:
    """The engine of the bundle in `folder`, or of the server that this YAML file describes; empty
    means the shipped one. Raises `BundleError`, and `ConfigError` for the file of a server.
    """
    return load_engine(_bundle(folder))


def open_grounder(engine: Engine, folder: str) -> Grounder | None:
    """What finds texts with `engine` of the bundle in `folder`; None where the bundle has no
    weights for it. The scripted engine of tests has plain ones. Raises `BundleError`.
    """
    if not supports_scoring(engine):
        return None
    is_scripted = engine.info.runtime == _SCRIPTED
    weights = PLAIN_WEIGHTS if is_scripted else load_weights(_bundle(folder))
    return None if weights is None else Grounder(engine, weights)


def find_bundle_of(engine: Engine, folder: str) -> Path | None:
    """The folder that `engine` was opened from; None for the scripted engine of tests. A server has
    none: its node cuts masks with the shipped bundle, where there is one.
    """
    if is_remote(engine):
        return find_bundle()
    return None if engine.info.runtime == _SCRIPTED else _bundle(folder)


def _bundle(folder: str) -> Path:
    return Path(folder) if folder else require_bundle()
