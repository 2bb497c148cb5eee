"""Teachers by name, opened from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ureca.datatypes import Image
from ureca.errors import ConfigError
from ureca.models.curation.masks import networks
from ureca.models.curation.masks.detected import DetectorTeacher
from ureca.models.curation.masks.prompted import Box, Detect, PromptedTeacher
from ureca.models.curation.masks.teachers import MaskTeacher
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.canvas import make_canvas_pixels
from ureca.models.runtime.segmentation.detectors.onnx_detector import open_onnx_detector
from ureca.models.runtime.segmentation.mask_selection import apply_box_nms
from ureca.weights import cached

VOC = "deeplabv3_mnv2_pascal_quant.tflite"
ADE = "deeplabv3_mnv2_ade20k_int8.tflite"
BODY = "bodypix_mobilenet_v1_075_512_512_16_quant_heads.tflite"
NAMES = ("sam2", "deeplab-voc", "deeplab-ade20k", "bodypix")
_DETECTOR_CANVAS = (416, 416)
_LEAST_SCORE, _OVERLAP, _MOST = 0.3, 0.65, 40


def open_teacher(name: str, *, weights: Path | None, everything: bool) -> MaskTeacher:
    """A teacher. `weights` holds the small networks' files, and `yolox-nano.bin` whose boxes SAM 2
    is asked for in everything mode. A name that ends with `.onnx` is a detector's file, with its
    layout beside it; the shipped mask head makes masks of its boxes. Raises `ConfigError` for a
    name that is none.
    """
    if name.endswith(".onnx"):
        return DetectorTeacher(open_onnx_detector(Path(name), open_box_segmenter=_open_mask_head))
    if name == "sam2":
        from ureca.models.runtime.segmentation.sam2 import Sam2

        detect = open_detector(weights) if everything and weights is not None else None
        segmenter = Sam2(cached(Sam2.name))
        return PromptedTeacher(segmenter, name=name, everything=everything, detect=detect)
    if name not in NAMES:
        raise ConfigError(
            f"no teacher {name!r}; there are {', '.join(NAMES)}, and detectors: PATH.onnx"
        )
    if weights is None:
        raise ConfigError(f"the teacher {name} needs --weights DIR with its file")
    if name == "bodypix":
        return networks.BodyPartTeacher(networks.LiteNetwork(weights / BODY))
    voc = name == "deeplab-voc"
    return networks.ClassMapTeacher(
        name,
        networks.LiteNetwork(weights / (VOC if voc else ADE)),
        classes=networks.VOC_NAMES if voc else networks.ADE_NAMES,
        trusts={} if voc else networks.SURE_ADE,
        other_trust=networks.VOC_TRUST if voc else networks.OTHER_ADE,
        stuff=frozenset() if voc else networks.ADE_STUFF,
    )


def _open_mask_head() -> Segmenter:
    return open_mask_head(require_bundle())


def open_detector(weights: Path) -> Detect:
    """YOLOX-nano's boxes of a picture. Raises `WeightsError`."""
    import torch

    from ureca.models.nano.detector import NCNN_FILE, Detector, load_ncnn

    detector = Detector().eval()
    load_ncnn(detector, weights / NCNN_FILE)

    def detect(image: Image) -> list[tuple[Box, str]]:
        pixels, where = make_canvas_pixels(image, _DETECTOR_CANVAS)
        with torch.inference_mode():
            rows = detector.detect(detector(torch.from_numpy(pixels[None])))[0].numpy()
        scores = rows[:, 4] * rows[:, 5:].max(1)
        sure = np.flatnonzero(scores >= _LEAST_SCORE)
        kept = sure[apply_box_nms(rows[sure, :4], scores[sure], overlap=_OVERLAP, most=_MOST)]
        boxes = rows[kept, :4] / where.scale
        return [((float(b[0]), float(b[1]), float(b[2]), float(b[3])), "") for b in boxes]

    return detect
