"""Adds the attribute heads of a checkpoint to a bundle; its other files keep their bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from ureca.bundle import AttributeWeights, file_spec, load_manifest, verify_files, write_manifest
from ureca.errors import BundleError, WeightsError
from ureca.models.nano.checkpoint import WEIGHTS
from ureca.models.runtime.attributes import ARRAYS, ATTRIBUTES_FILE, checkpoint_attributes
from ureca.models.runtime.load import load_engine


def add_attributes(checkpoint: Path, bundle: Path) -> AttributeWeights:
    """Copy the heads and write the section `attributes` of the manifest; the bundle is opened, so
    its self-test proves that its captions are the same.

    Raises `WeightsError` without heads, `BundleError` for a bundle of another checkpoint.
    """
    section = checkpoint_attributes(checkpoint)
    if section is None:
        raise WeightsError(
            f"{checkpoint} has no {ATTRIBUTES_FILE} and {ARRAYS}: fit them first "
            "(docs/attributes.md)"
        )
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    got = file_spec(checkpoint, WEIGHTS).sha256
    if got != manifest.checkpoint_sha256:
        raise BundleError(
            f"{bundle} was made from a checkpoint with sha256 {manifest.checkpoint_sha256}, "
            f"{checkpoint} has {got}: export it to a bundle of its own"
        )
    shutil.copyfile(checkpoint / ARRAYS, bundle / ARRAYS)
    write_manifest(bundle, msgspec.structs.replace(manifest, attributes=section))
    load_engine(bundle)
    return section
