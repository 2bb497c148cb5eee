"""Regions as people have them: numpy, tensors, COCO, supervision, ultralytics; nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image as Pillow

from ureca.datatypes import Frame, RegionSeed
from ureca.errors import RegionError, SourceError
from ureca.protocol import rle
from ureca.region_inputs import NormalizedRegion, seed_of, seeds_of

MASK = np.zeros((40, 60), np.bool_)
MASK[10:20, 20:50] = True
CODE = rle.encode(MASK)


class Tensor:
    """What a tensor on a device has: no array until it is on the host."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.int64) * 7,
        MASK.astype(np.float32),
        MASK.astype(np.float64) * 0.9,
        np.asfortranarray(MASK),
        MASK[None],
        MASK[:, :, None],
        MASK.tolist(),
        Tensor(MASK),
        Pillow.fromarray(MASK),
        Pillow.fromarray(MASK.astype(np.uint8) * 255),
        Pillow.fromarray(
            np.dstack([np.full((*MASK.shape, 3), 255, np.uint8), MASK * np.uint8(255)])
        ),
        {"size": [40, 60], "counts": CODE.counts},
        {"size": (np.int64(40), np.int64(60)), "counts": CODE.counts.encode()},
        CODE,
    ],
    ids=lambda mask: f"{type(mask).__name__} {getattr(mask, 'dtype', '')}",
)
def test_masks(mask: Any) -> None:
    seed = RegionSeed(mask=mask)
    assert seed.mask is not None
    assert np.array_equal(rle.decode(seed.mask), MASK)
    msgspec.msgpack.encode(seed)


def test_uncompressed_run_lengths_of_coco() -> None:
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, MASK.T.reshape(-1).astype(int), 2])))
    seed = RegionSeed(mask={"size": [40, 60], "counts": runs.tolist()})  # type: ignore[arg-type]
    assert seed.mask == CODE
    for counts in ([1, 2], [-1, 2401], [2400.5], [], "", [1 << 62, 1 << 62]):
        with pytest.raises(RegionError):
            rle.check(RegionSeed(mask={"size": [40, 60], "counts": counts}).mask)  # type: ignore[arg-type]


def test_what_is_no_mask_says_what_it_is() -> None:
    ids = MASK.astype(np.uint8)
    ids[0, 0] = 3
    for mask, words in (
        (ids, r"values \[1, 3\].*mask == value"),
        (np.zeros((4, 4, 5)), "array"),
        ("abc", "needs its size"),
        ({"size": [1, 2]}, "counts"),
        (MASK.astype(float) * np.nan, "floats"),
        ([[1, 1, 2, 2, 3, 1], [1, 2]], "array of numbers"),
        (object(), "object"),
    ):
        with pytest.raises(RegionError, match=words):
            RegionSeed(mask=mask)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint16])
@pytest.mark.parametrize("make", [np.asarray, tuple, list, Tensor, lambda a: a[None]])
def test_boxes_and_points_of_numpy(kind: type, make: Any) -> None:
    box = RegionSeed(box_xyxy_px=make(np.asarray([10, 20, 30, 40], kind)))
    assert box.box_xyxy_px == (10.0, 20.0, 30.0, 40.0)
    point = RegionSeed(
        point_xy_px=make(np.asarray([3, 4], kind)),
        more_points_xy_px=np.asarray([[5, 6], [7, 8]], kind),  # type: ignore[arg-type]
        score=kind(1),  # type: ignore[arg-type]
    )
    assert point.more_points_xy_px == ((5.0, 6.0), (7.0, 8.0))
    msgspec.msgpack.encode([box, point])


@pytest.mark.parametrize("shape", ["box_xyxy_px", "point_xy_px", "polygons_xy_px"])
def test_fractions_are_refused_with_the_reason(shape: str) -> None:
    values = {
        "box_xyxy_px": (0.1, 0.2, 0.5, 0.9),
        "point_xy_px": (0.4, 0.4),
        "polygons_xy_px": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.6]],
    }
    with pytest.raises(RegionError, match="pixels are expected"):
        RegionSeed(**{shape: values[shape]})  # type: ignore[arg-type]
    assert RegionSeed(point_xy_px=(0, 0)).point_xy_px == (0.0, 0.0)
    assert RegionSeed(point_xy_px=(0.5, 20)).point_xy_px == (0.5, 20.0)


def test_ids_and_labels_of_detectors_are_numbers() -> None:
    seed = RegionSeed(rid=np.int64(3), label=5, box_xyxy_px=(1, 2, 30, 40))  # type: ignore[arg-type]
    assert (seed.rid, seed.label) == ("3", "5")
    for wrong in ({"rid": 3.5}, {"label": ["a"]}, {"rid": True}, {"score": "high"}):
        with pytest.raises(RegionError):
            RegionSeed(box_xyxy_px=(1, 2, 30, 40), **wrong)  # type: ignore[arg-type]


def test_polygons_in_all_spellings() -> None:
    corners = [(1.0, 2.0), (30.0, 2.0), (30.0, 40.0)]
    flat = [1, 2, 30, 2, 30, 40]
    for polygons in (
        [corners],
        corners,
        flat,
        [flat],
        np.asarray(corners),
        [np.asarray(corners, np.float32)],
        np.asarray(flat),
    ):
        assert RegionSeed(polygons_xy_px=polygons).polygons_xy_px == (tuple(corners),)  # type: ignore[arg-type]
    for wrong in ([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[np.inf] * 6]):
        with pytest.raises(RegionError):
            RegionSeed(polygons_xy_px=wrong)  # type: ignore[arg-type]


def test_coco_annotations() -> None:
    outline = [20, 10, 50, 10, 50, 20, 20, 20]
    annotation = {"id": 9, "image_id": 1, "category_id": 2, "bbox": [20, 10, 30, 10], "iscrowd": 0}
    assert seed_of(annotation).box_xyxy_px == (20, 10, 50, 20)
    assert seed_of(annotation).label == "2"
    assert seed_of({**annotation, "segmentation": [outline]}).polygons_xy_px[0][1] == (50, 10)
    assert seed_of({**annotation, "segmentation": []}).box_xyxy_px is not None
    coded = {**annotation, "segmentation": {"size": [40, 60], "counts": CODE.counts}}
    assert seed_of(coded).mask == CODE
    assert seed_of({"size": [40, 60], "counts": CODE.counts}).mask == CODE
    with pytest.raises(RegionError, match="mapping with one of"):
        seed_of({"id": 1})


@dataclass
class Detections:
    """The fields of `supervision.Detections`."""

    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)


BOXES = np.asarray([[1, 2, 30, 40], [5, 6, 50, 30]], np.float32)


def test_detections_of_supervision() -> None:
    found = Detections(
        BOXES,
        confidence=np.asarray([0.5, 0.25], np.float32),
        class_id=np.asarray([0, 7]),
        tracker_id=np.asarray([11, 12]),
        data={"class_name": np.asarray(["dog", "red cup"])},
    )
    first, second = seeds_of(found, 60, 40)
    assert first == RegionSeed(rid="11", box_xyxy_px=(1, 2, 30, 40), label="dog", score=0.5)
    assert (second.rid, second.label) == ("12", "red cup")
    found.mask, found.data = np.stack([MASK, ~MASK]), {}
    first, second = seeds_of(found, 60, 40)
    assert (first.mask, first.label) == (CODE, "0")
    assert seeds_of(Detections(np.empty((0, 4))), 60, 40) == ()


def test_results_of_ultralytics() -> None:
    boxes = SimpleNamespace(
        xyxy=Tensor(BOXES), cls=Tensor([0.0, 1.0]), conf=Tensor([0.5, 0.5]), id=None
    )
    found = SimpleNamespace(boxes=boxes, masks=None, names={0: "dog", 1: "cat"})
    assert [one.label for one in seeds_of(found, 60, 40)] == ["dog", "cat"]
    found.masks = SimpleNamespace(xy=[np.asarray([[1, 2], [30, 2], [30, 40]])] * 2)
    assert len(seeds_of(found, 60, 40)[1].polygons_xy_px) == 1


def test_arrays_of_several() -> None:
    assert [one.mask for one in seeds_of(np.stack([MASK, MASK]), 60, 40)] == [CODE, CODE]
    assert seeds_of(MASK, 60, 40)[0].mask == CODE
    assert seeds_of(BOXES, 60, 40)[1].box_xyxy_px == (5, 6, 50, 30)
    rows = np.c_[BOXES, [0.5, 0.25], [3, 4]]
    assert [(one.score, one.label) for one in seeds_of(rows, 60, 40)] == [(0.5, "3"), (0.25, "4")]
    mixed = seeds_of([MASK, BOXES[0], {"bbox": [1, 2, 3, 4]}, (1, 2, 3, 4)], 60, 40)
    assert [one.mask is None for one in mixed] == [False, True, True, True]
    assert seeds_of([], 60, 40) == ()
    for wrong in ("abc", 5, {"box": [1, 2, 3, 4]}, [None], [5], np.zeros((2, 3))):
        with pytest.raises(RegionError):
            seeds_of(wrong, 60, 40)


def test_fractions_become_pixels_where_the_frame_is_known() -> None:
    box = NormalizedRegion(((0.1, 0.25), (0.6, 0.75)), is_box=True, label="dog")
    assert box.seed(100, 40).box_xyxy_px == (10, 10, 60, 30)
    with pytest.raises(RegionError, match="fractions"):
        NormalizedRegion(((10, 20), (30, 40)), is_box=True)


@pytest.mark.parametrize("stamp", [1.5e9, "now", None, 2.0])
def test_a_stamp_is_whole_nanoseconds(stamp: Any) -> None:
    with pytest.raises(SourceError, match=r"time\.monotonic_ns"):
        Frame("cam0", bytes(16), 0, stamp, np.zeros((4, 4, 3), np.uint8))
    whole = Frame("cam0", bytes(16), np.int64(2), np.int64(7), np.zeros((4, 4, 3), np.uint8))
    assert (type(whole.seq), type(whole.captured_ns)) == (int, int)
