"""Imports optional packages where they are used; the error says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ureca.errors import MissingExtraError

CHECKOUT_ONLY = "ureca.models.data.synthetic"
"""The package that the wheel leaves out: a robot renders no training data."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module!r} is not installed ({error}); it comes with the extra {extra!r}: "
            f"pip install 'ureca[{extra}]'"
        ) from error


def checkout_error() -> MissingExtraError:
    """The error that says where `CHECKOUT_ONLY` is."""
    return MissingExtraError(
        f"{CHECKOUT_ONLY} (synthetic training worlds and their judge) is not in the wheel; it is "
        "in a checkout of the repository: pip install --editable '.[train]' there"
    )
