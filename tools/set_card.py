"""Put an edited model card, with its hash in the manifest, into a bundle and its checkpoint.

python tools/set_card.py models/pretrained/ureca-nano MODEL_CARD.md
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from ureca.bundle import bundle_sha, file_spec, load_manifest, write_manifest

CARD = "MODEL_CARD.md"


def set_card(bundle: Path, card: Path) -> str:
    """Copy `card` and write the manifest anew; returns the bundle's new hash."""
    manifest = load_manifest(bundle)
    for folder in (bundle, bundle / "checkpoint"):
        if folder.is_dir() and (folder / CARD).resolve() != card.resolve():
            shutil.copyfile(card, folder / CARD)
    others = tuple(spec for spec in manifest.extra_files if spec.file != CARD)
    extra = (*others, file_spec(bundle, CARD))
    manifest = msgspec.structs.replace(manifest, extra_files=extra)
    write_manifest(bundle, manifest)
    return bundle_sha(manifest)


if __name__ == "__main__":
    print(set_card(*map(Path, sys.argv[1:3])))
