"""The mask head of a bundle, as a segmenter. Its files are checked against the manifest."""

from __future__ import annotations

from pathlib import Path

from ureca.bundle import BundleManifest, load_manifest, verify_file
from ureca.errors import WeightsError
from ureca.models.runtime.segmentation.mask_head import MaskHeadSegmenter
from ureca.models.runtime.segmentation.ort_mask_graphs import OrtMaskGraphs


def has_mask_head(manifest: BundleManifest) -> bool:
    """Whether the bundle has a mask head."""
    return bool(manifest.mask_head)


def open_mask_head(bundle: Path, *, threads: int = 1) -> MaskHeadSegmenter:
    """The mask head of the bundle in the folder `bundle`.

    Raises `WeightsError` when it has none, `BundleError` when a file is missing, altered or of
    another version of this format.
    """
    return MaskHeadSegmenter(open_mask_graphs(bundle, threads=threads))


def open_mask_graphs(bundle: Path, *, threads: int = 1) -> OrtMaskGraphs:
    """Its graphs alone; raises as `open_mask_head` does."""
    head = load_manifest(bundle).mask_head
    if not head:
        raise WeightsError(
            f"the bundle {bundle} has no mask head: add one with `ureca export masks CHECKPOINT "
            f"--bundle {bundle}`, or use another segmenter (`ureca weights get sam2-hiera-tiny`)"
        )
    paths = {name: verify_file(bundle, graph.spec) for name, graph in head.graphs.items()}
    return OrtMaskGraphs(head, paths, threads=threads)
