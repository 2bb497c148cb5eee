"""Where the shipped captioner and the demo clip are: in the checkout, or in a distribution of their
own.
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
    """The folder of the shipped bundle: the checkout's, else the installed one, else None."""
    folders = (CHECKOUT_BUNDLE, _installed("bundle"))
    return next((folder for folder in folders if _holds(folder, MANIFEST_NAME)), None)


def shipped_bundle() -> Path:
    """As `find_bundle`, but raises `BundleError` with the commands that bring one."""
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


def demo_clip() -> tuple[Path, Path] | None:
    """The demo clip and its prompts, from where the shipped bundle may be; None without them."""
    clip, prompts = "tabletop.mp4", "prompts.json"
    for folder in (_PACKAGE.resolve().parent / "configs" / "demo", _installed("demo")):
        if _holds(folder, clip) and _holds(folder, prompts):
            return folder / clip, folder / prompts
    return None


def _installed(name: str) -> Path:
    """A folder of the weights' distribution, which is looked up and never imported."""
    spec = find_spec(DISTRIBUTION.replace("-", "_"))
    origin = None if spec is None else spec.origin
    return Path(origin).parent / name if origin else Path()


def _holds(folder: Path, name: str) -> bool:
    return folder != Path() and (folder / name).is_file()
