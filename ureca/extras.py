"""Imports optional packages where they are used; the error says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ureca.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module!r} is not installed ({error}); it comes with the extra {extra!r}: "
            f"pip install 'ureca[{extra}]'"
        ) from error
