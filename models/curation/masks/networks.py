"""Small networks, trained on COCO, VOC and ADE20K, as teachers of things, stuff and parts.

The files are int8 TFLite, run by LiteRT (`pip install ai-edge-litert`); `docs/curation.md` says
where they come from. Trusts are IoUs measured on pictures with true masks.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask, Rle
from ureca.errors import MissingExtraError, WeightsError
from ureca.models.curation.masks.teachers import FoundMask, TeacherMask
from ureca.models.data.regions import RegionRecord
from ureca.protocol import rle

U8 = npt.NDArray[np.uint8]

_VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse "
    "motorbike person plant sheep sofa train tv"
)
_ADE = (
    "other wall building sky floor tree ceiling road bed window grass cabinet sidewalk person "
    "earth door table mountain plant curtain chair car water painting sofa shelf house sea "
    "mirror rug field armchair"
)
_STUFF = "wall building sky floor tree ceiling road grass sidewalk earth mountain water sea field"
VOC_NAMES, ADE_NAMES, ADE_STUFF = _VOC.split(), _ADE.split(), frozenset(_STUFF.split())
SURE_ADE = {"sky": 0.84, "grass": 0.72, "tree": 0.7, "water": 0.7, "sea": 0.7}
OTHER_ADE = 0.45
VOC_TRUST, UNPROMPTED_TRUST, _HEAD_TRUST = 0.74, 0.64, 0.79
"""Of VOC's classes inside a person's box; of things without a box (two of them touch, parts are
missing), so that a second teacher must agree; of heads.
"""
_LEAST, _MOST = 0.2, 0.97
"""Of its box that an outline must fill."""
_LEAST_SHARE = 0.01
_PEOPLE = (
    *("man", "woman", "boy", "girl", "child", "kid", "baby", "person", "people", "lady", "guy"),
    *("men", "women", "boys", "girls", "children", "kids", "persons", "player"),
)
_BODY_PARTS = (
    ("head", (0, 1)),
    ("left arm", (2, 3, 6, 7)),
    ("right arm", (4, 5, 8, 9)),
    ("left hand", (10,)),
    ("right hand", (11,)),
    ("torso", (12, 13)),
    ("left leg", (14, 15, 18, 19)),
    ("right leg", (16, 17, 20, 21)),
    ("left foot", (22,)),
    ("right foot", (23,)),
)
_PERSON_AGREES = 0.62
_SEGMENTS_ZERO = 160
"""The u8 value of logit 0 in BodyPix's person map, as its file says."""


class LiteNetwork:
    """One TFLite file: an RGB picture u8 [H, W, 3] squashed to its input, all outputs back by name.

    Raises `MissingExtraError` without LiteRT, `WeightsError` for a file that it cannot open.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        try:
            module = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError:
            raise MissingExtraError(
                "this teacher runs in LiteRT, which is not installed: pip install ai-edge-litert"
            ) from None
        try:
            self._net: Any = module.Interpreter(str(path), num_threads=threads)
            self._net.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise WeightsError(f"cannot open {path}: {error}") from error
        self._input = self._net.get_input_details()[0]
        self._outputs = self._net.get_output_details()

    def __call__(self, image: Image) -> dict[str, npt.NDArray[Any]]:
        """All outputs for a picture of any size."""
        height, width = (int(side) for side in self._input["shape"][1:3])
        squashed = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        self._net.set_tensor(self._input["index"], squashed[None])
        self._net.invoke()
        return {one["name"]: self._net.get_tensor(one["index"])[0] for one in self._outputs}


class ClassMapTeacher:
    """A `MaskTeacher` from a network that names every pixel (DeepLab of VOC or of ADE20K)."""

    def __init__(
        self,
        name: str,
        network: Any,  # LiteNetwork, or a fake of it
        *,
        classes: Sequence[str],
        trusts: Mapping[str, float],
        other_trust: float,
        stuff: frozenset[str] = frozenset(),
    ) -> None:
        self.name, self._network, self._classes = name, network, list(classes)
        self._trusts, self._other, self._stuff = trusts, other_trust, stuff

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """See `MaskTeacher`: the class of a region's name inside its box, where it fills 20 to 97 %
        of it.
        """
        ids = self._name_pixels(image)
        return [self._outline(ids, region) for region in regions]

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """See `MaskTeacher`: connected parts of every class over 1 % of the picture."""
        ids = self._name_pixels(image)
        return [
            one
            for n in np.unique(ids)
            if n
            for one in self._split_parts(ids == n, self._classes[n])
        ]

    def _name_pixels(self, image: Image) -> U8:
        (ids,) = self._network(image).values()
        size = image.shape[1], image.shape[0]
        return np.asarray(
            cv2.resize(ids.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), np.uint8
        )

    def _outline(self, ids: U8, region: RegionRecord) -> TeacherMask | None:
        name = find_class(region.category, self._classes)
        if name is None or ids.shape != (region.height, region.width):
            return None
        box = _draw_box(region)
        mask = (ids == self._classes.index(name)) & box
        fill = _compute_share(mask, box)
        if not _LEAST <= fill <= _MOST:
            return None
        return TeacherMask(mask, self._trusts.get(name, self._other), self.name)

    def _split_parts(self, mask: Mask, name: str) -> Iterator[FoundMask]:
        trust = self._trusts.get(name, self._other)
        if name in self._stuff:
            pieces = [mask]
        else:
            trust = min(trust, UNPROMPTED_TRUST)
            count, labels = cv2.connectedComponents(mask.astype(np.uint8))
            pieces = [labels == n for n in range(1, count)]
        for piece in pieces:
            if piece.mean() >= _LEAST_SHARE:
                answer = TeacherMask(np.asarray(piece, np.bool_), trust, self.name)
                yield FoundMask(answer, category=name, stuff=name in self._stuff)


class BodyPartTeacher:
    """A `MaskTeacher` of body parts (BodyPix): on the crop of every person with an outline, kept
    where the network's person and that outline agree.
    """

    name = "bodypix"

    def __init__(self, network: Any) -> None:  # LiteNetwork, or a fake of it
        self._network = network

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """See `MaskTeacher`: it knows none; parts are found."""
        return [None] * len(regions)

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """See `MaskTeacher`."""
        found: list[FoundMask] = []
        for region in regions:
            outlined = not region.mask_source.startswith(("box", "mixed", "full_image"))
            if outlined and find_class(region.category, ("person",)):
                found += self._find_parts(image, region)
        return found

    def _find_parts(self, image: Image, region: RegionRecord) -> Iterator[FoundMask]:
        x, y, width, height = (round(side) for side in region.box_xywh_px)
        person = rle.decode(Rle(size=(region.height, region.width), counts=region.counts))
        crop = image[max(0, y) : y + height, max(0, x) : x + width]
        if min(crop.shape[:2]) < 16 or person.shape != image.shape[:2]:
            return
        inside = person[max(0, y) : y + height, max(0, x) : x + width]
        answer = self._network(crop)
        size = crop.shape[1], crop.shape[0]
        seen = cv2.resize(answer["float_segments"].astype(np.float32), size) > _SEGMENTS_ZERO
        agreement = _compute_share(seen & inside, seen | inside)
        if agreement < _PERSON_AGREES:
            return
        maps = cv2.resize(answer["float_part_heatmaps"].astype(np.float32), size)
        best = maps.argmax(2)
        for name, numbers in _BODY_PARTS:
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[max(0, y) : y + height, max(0, x) : x + width] = np.isin(best, numbers) & inside
            trust = _HEAD_TRUST if name == "head" else 0.9 * agreement
            if mask.any():
                yield FoundMask(TeacherMask(mask, trust, self.name), category=name, part=True)


def find_class(category: str, classes: Sequence[str]) -> str | None:
    """The network's class for a region's name; None when there is none."""
    word = category.lower().strip()
    for name in (word, word.removesuffix("s"), "person" if word in _PEOPLE else ""):
        if name and name in classes:
            return name
    return None


def _compute_share(part: Mask, whole: Mask) -> float:
    count = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / count if count else 0.0


def _draw_box(region: RegionRecord) -> Mask:
    x, y, width, height = (round(side) for side in region.box_xywh_px)
    mask = np.zeros((region.height, region.width), np.bool_)
    mask[max(0, y) : y + height, max(0, x) : x + width] = True
    return mask
