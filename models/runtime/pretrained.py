"""Finds the shipped captioner and the demo clip: in the checkout, or in the package of the
weights.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import ureca.models
from ureca.bundle import MANIFEST_NAME
from ureca.errors import BundleError

DISTRIBUTION, EXTRA = "ureca-nano-weights", "nano"
_PACKAGE = Path(ureca.models.__file__).parent
CHECKOUT_BUNDLE = _PACKAGE / "pretrained" / "ureca-nano"


def find_bundle() -> Path | None:
    """Return the folder of the shipped bundle: the checkout's, else the installed one, else
    None.
    """
    folders = (CHECKOUT_BUNDLE, _find_installed("bundle"))
    return next((folder for folder in folders if _has_file(folder, MANIFEST_NAME)), None)


def require_bundle() -> Path:
    """As `find_bundle`, but raise `BundleError` with the commands that install one."""
    folder = find_bundle()
    if folder is not None:
        return folder
    raise BundleError(
        f"no captioner here: expected {CHECKOUT_BUNDLE} (a checkout) or the distribution "
        f"{DISTRIBUTION}, found neither. One of these helps:\n"
        f"    pip install 'ureca[{EXTRA}]'\n"
        f"    pip install {DISTRIBUTION.replace('-', '_')}-*.whl   # a wheel that you were given\n"
        "    git checkout -- models/pretrained   # in a checkout\n"
        "or name a bundle of your own: --bundle DIR"
    )


def find_demo_clip() -> tuple[Path, Path] | None:
    """Return the demo clip and its prompts from the folder of the shipped bundle, or None."""
    clip, prompts = "tabletop.mp4", "prompts.json"
    for folder in (_PACKAGE.resolve().parent / "configs" / "demo", _find_installed("demo")):
        if _has_file(folder, clip) and _has_file(folder, prompts):
            return folder / clip, folder / prompts
    return None


def _find_installed(name: str) -> Path:
    """Return a folder of the weights' package. The package is located and never imported."""
    spec = find_spec(DISTRIBUTION.replace("-", "_"))
    origin = None if spec is None else spec.origin
    return Path(origin).parent / name if origin else Path()


def _has_file(folder: Path, name: str) -> bool:
    return folder != Path() and (folder / name).is_file()
