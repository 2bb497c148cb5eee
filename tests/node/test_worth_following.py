"""What a segmenter finds by itself: in one pass or on a grid, and what of it is worth following."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from ureca.bundle import load_manifest
from ureca.config import from_plain
from ureca.datatypes import RegionSeed
from ureca.errors import ConfigError, WeightsError
from ureca.models.runtime.pretrained import find_bundle
from ureca.models.runtime.segmentation.base import MaskPrediction
from ureca.models.runtime.segmentation.bundled import has_mask_head
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.config import NodeConfig
from ureca.node.masks.geometry import iou
from ureca.node.segmentation.automatic_masks import find_things, is_followed
from ureca.node.segmentation.factory import (
    open_segmentation_worker,
    open_segmenter,
    resolve_segmenter,
)
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeSegmenter,
    RegionPrompt,
)
from ureca.node.segmentation.worth_following import choose_worth_following
from ureca.node.segmenter_config import SegmenterConfig
from ureca.protocol.rle import decode
from ureca.testing import SyntheticSource

SIZE = 120, 160
LEFT = {"name": "left", "polygon_xy": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}


def configure(**plain: Any) -> SegmenterConfig:
    return from_plain(SegmenterConfig, {"model": "scripted", **plain})


def cut(x0: int, y0: int, x1: int, y1: int, score: float = 0.9, **more: Any) -> MaskPrediction:
    logits = np.full(SIZE, -9.0, np.float32)
    logits[y0:y1, x0:x1] = 9.0
    return MaskPrediction(logits, score, **more)


class Seer(ScriptedSegmenter):
    """Sees what it is told, in one pass; has no answers to points."""

    def __init__(self, cuts: Sequence[MaskPrediction]) -> None:
        super().__init__()
        self._cuts = cuts

    def everything(self, encoded: Any) -> list[MaskPrediction]:
        return list(self._cuts)

    def segment(self, encoded: Any, prompts: Any) -> Any:
        raise AssertionError("one pass is enough")


IMAGE = np.zeros((*SIZE, 3), np.uint8)


def find(cuts: Sequence[MaskPrediction], **plain: Any) -> Any:
    return find_things(Seer(cuts), IMAGE, SIZE, configure(**plain))


def choose(cuts: Sequence[MaskPrediction], *, most: int = 9, **plain: Any) -> Any:
    config = configure(**plain)
    return choose_worth_following(find(cuts, **plain).things, "cam0", config, most=most)


def test_one_pass_is_used_where_there_is_one_and_else_a_grid_of_points() -> None:
    source = SyntheticSource(things=3, seed=4)
    truth = source.masks(0).values()

    class Plain(ScriptedSegmenter):
        everything = None  # type: ignore[assignment]

    for segmenter in (ScriptedSegmenter(), Plain()):
        found = find_things(segmenter, source.image(0), SIZE, configure(grid=16))
        assert len(found.things) == 3
        cells = [thing.cells for thing in found.things]
        assert min(max(iou(one, mask) for one in cells) for mask in truth) > 0.9
    assert {thing.prediction.label for thing in found.things} == {None}


def test_each_segmenter_has_its_own_thresholds_and_settings_come_before() -> None:
    unsure = [cut(10, 10, 50, 50, 0.6)]
    assert find(unsure).things == []
    assert len(find(unsure, model="nano").things) == 1
    assert len(find(unsure, min_thing_score=0.5).things) == 1
    assert find(unsure, model="nano", min_thing_score=0.7).things == []


def test_texts_are_asked_of_what_is_too_unsure_to_be_followed() -> None:
    sure, unsure, hidden = cut(0, 0, 60, 60, 0.7), cut(80, 0, 140, 60, 0.4), cut(0, 0, 60, 58, 0.5)
    config, cuts = configure(model="nano"), Seer([unsure, hidden, sure])
    found = find_things(cuts, IMAGE, SIZE, config, for_texts=True).things
    assert [thing.prediction for thing in found] == [sure, unsure]
    assert [is_followed(thing, config) for thing in found] == [True, False]
    assert len(find_things(cuts, IMAGE, SIZE, config).things) == 1
    assert find([unsure], model="nano", min_thing_score=0.2).things
    sam = configure(model="sam2-hiera-tiny")
    assert sam.text_thresholds == sam.thresholds


class ManySeer(Seer):
    """One that also gives all masks that it thinks of."""

    def candidates(self, encoded: Any) -> list[MaskPrediction]:
        return [
            *self._cuts,
            cut(4, 4, 24, 24, 0.4),
            cut(5, 4, 24, 24, 0.3),
            cut(90, 4, 99, 14, 0.4),
        ]


def test_parts_of_things_are_found_where_they_are_asked_for() -> None:
    thing, config = cut(0, 0, 60, 60, 0.9), configure(model="nano")
    found = find_things(ManySeer([thing]), IMAGE, SIZE, config, for_texts=True, with_parts=True)
    assert [one.prediction for one in found.things] == [thing]
    (part,) = found.parts  # the second is nearly the same, the third lies in no thing
    assert part.prediction.score == 0.4
    assert find_things(ManySeer([thing]), IMAGE, SIZE, config, for_texts=True).parts == []
    without = find_things(Seer([thing]), IMAGE, SIZE, config, for_texts=True, with_parts=True)
    assert without.parts == []


def test_candidates_of_a_keyframe_have_parts_last() -> None:
    seer, frame = ManySeer([cut(0, 0, 60, 60, 0.9)]), SyntheticSource().frame(0)
    frame = replace(frame, image=IMAGE, regions=None)
    segmenter = KeyframeSegmenter(seer, configure(model="nano"))
    plain = segmenter.segment(KeyframeRequest(frame, {}, candidates=8))
    more = segmenter.segment(KeyframeRequest(frame, {}, candidates=8, with_parts=True))
    assert plain.candidates is not None
    assert more.candidates is not None
    assert (len(plain.candidates), len(more.candidates)) == (1, 2)
    assert more.candidates[0] == plain.candidates[0]
    assert more.region_masks == ()  # a part is not followed by itself


def test_a_thing_counts_once_also_where_it_is_left_out() -> None:
    cuts = [cut(0, 0, 160, 120, 0.95), cut(0, 0, 160, 119, 0.93), cut(9, 9, 12, 12, 0.91)]
    found = find([*cuts, cut(9, 9, 12, 12, 0.90), cut(40, 40, 80, 80), cut(41, 40, 80, 80)])
    assert len(found.things) == 1
    assert found.left_out == {"max_share": 1, "min_share": 1}


def test_what_is_known_is_no_thing() -> None:
    known = np.zeros((240, 320), np.bool_)  # of any size
    known[40:160, 40:160] = True
    cuts = [cut(20, 20, 80, 80), cut(100, 20, 150, 80)]
    found = find_things(Seer(cuts), IMAGE, SIZE, configure(), known=[known])
    assert [thing.prediction for thing in found.things] == [cuts[1]]


def test_the_largest_and_surest_come_first() -> None:
    small, large, unsure = cut(0, 0, 20, 20), cut(30, 0, 80, 50), cut(90, 0, 145, 50, 0.81)
    logits = large.logits[::-1].copy()
    logits[logits > 0] = np.linspace(0.7, 9, np.count_nonzero(logits > 0))
    vague = MaskPrediction(logits, 0.9)  # as large and sure, but a softer outline
    assert 0.85 < vague.stability < 0.99
    chosen, left_out = choose([small, vague, unsure, large])
    assert [one.prediction for one in chosen] == [large, vague, unsure, small]
    assert not left_out
    chosen, left_out = choose([small, unsure, large], most=1)
    assert [one.prediction for one in chosen] == [large]
    assert left_out == {"max_regions": 2}


@pytest.mark.parametrize(
    ("box", "share_left"), [((60, 0, 99, 50), 20 / 39), ((62, 0, 99, 50), 18 / 37)]
)
def test_half_of_a_thing_must_be_in_a_zone(
    box: tuple[int, int, int, int], share_left: float
) -> None:
    chosen, left_out = choose([cut(*box)], zones=[LEFT])
    assert (len(chosen) == 1) == (share_left >= 0.5)
    assert left_out["zones"] == (share_left < 0.5)
    chosen, _ = choose([cut(*box)], zones=[{**LEFT, "mode": "exclude"}])
    assert (len(chosen) == 1) == (share_left < 0.5)


def test_zones_add_up_and_may_be_of_one_stream() -> None:
    things = [cut(10, 10, 60, 60), cut(100, 10, 150, 60)]
    right = {"name": "right", "polygon_xy": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
    assert len(choose(things, zones=[LEFT, right])[0]) == 2
    inner = {"name": "inner", "polygon_xy": [[0, 0], [0.5, 0], [0.5, 1]], "mode": "exclude"}
    assert choose(things, zones=[LEFT, inner])[1] == {"zones": 2}
    assert len(choose(things, zones=[{**LEFT, "stream": "other"}])[0]) == 2
    assert len(choose(things, zones=[{**LEFT, "stream": "cam0"}])[0]) == 1


def test_classes_decide() -> None:
    things = [cut(0, 0, 50, 50, label="red"), cut(60, 0, 110, 50, label="blue")]
    things += [cut(0, 60, 50, 110)]
    assert [t.prediction.label for t in choose(things, include_classes=["red"])[0]] == ["red"]
    chosen, left_out = choose(things, exclude_classes=["red"])
    assert {t.prediction.label for t in chosen} == {"blue", None}
    assert left_out == {"classes": 1}


def test_texts_are_asked_of_all_things_whatever_the_zones_say() -> None:
    cuts = [cut(10, 10, 60, 60), cut(100, 10, 150, 60)]
    segmenter = KeyframeSegmenter(Seer(cuts), configure(zones=[LEFT]))
    frame = SyntheticSource(things=0).frame(0)
    found = segmenter.segment(KeyframeRequest(frame, {}, free_slots=4, candidates=8))
    assert len(found.candidates or ()) == 2
    assert len(found.region_masks) == 1
    assert found.left_out == {"zones": 1}


@pytest.mark.parametrize("model", ["nano", "scripted"])
def test_the_outline_of_a_clients_box_is_moved_to_the_edges_for_a_coarse_segmenter(
    model: str,
) -> None:
    source = SyntheticSource(things=1, seed=4)
    truth = source.masks(0)["red"]
    x0, y0, x1, y1 = source.boxes_xyxy_px(0)["red"]
    inside = np.zeros(SIZE, np.float32)
    inside[y0 + 3 : y1 + 2, x0 + 3 : x1 + 2] = 4  # three pixels off
    logits = cv2.GaussianBlur(inside, (9, 9), 3) - 1.5

    class Coarse(ScriptedSegmenter):
        def segment(self, encoded: Any, prompts: Any) -> Any:
            return [(MaskPrediction(logits, 0.9),) for _ in prompts]

    seed = RegionSeed(box_xyxy_px=(float(x0), float(y0), float(x1), float(y1)))
    wanted = {"a": RegionPrompt(truth.astype(np.float32), seed=seed)}
    wanted["b"] = RegionPrompt(truth.astype(np.float32))  # nobody points at it now
    segmenter = KeyframeSegmenter(Coarse(), configure(model=model))
    asked, carried = segmenter.segment(KeyframeRequest(source.frame(0), wanted)).region_masks
    plain = iou(decode(carried.mask), truth)
    assert plain < 0.9
    if model == "nano":
        assert iou(decode(asked.mask), truth) > 0.95
    else:
        assert iou(decode(asked.mask), truth) == plain


BAD_ZONES = {
    "expected 3..64 corners, got 2": {"polygon_xy": [[0, 0], [1, 1]]},
    "expected 3..64 corners, got 65": {"polygon_xy": [[n / 65, n % 2] for n in range(65)]},
    "shares 0..1 of the frame, got [320": {"polygon_xy": [[0, 0], [320, 0], [320, 240]]},
    "expected an area": {"polygon_xy": [[0, 0], [0.5, 0.5], [1, 1]]},
    "expected a name": {"name": "Left side"},
    "Invalid enum value 'only'": {"mode": "only"},
    "expected a finite number": {"polygon_xy": [[0, 0], [float("nan"), 0], [0, 1]]},
}


@pytest.mark.parametrize("message", BAD_ZONES)
def test_a_zone_that_is_none_is_refused_with_what_was_expected(message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(zones=[{**LEFT, **BAD_ZONES[message]}])
    assert message in str(refused.value)


def test_zones_have_names_of_their_own_and_a_limit() -> None:
    with pytest.raises(ConfigError, match=r"\['left'\] stand twice"):
        configure(zones=[LEFT, LEFT])
    with pytest.raises(ConfigError, match="at most 32"):
        configure(zones=[{**LEFT, "name": f"z{n}"} for n in range(33)])


def test_the_mask_head_of_the_bundle_is_taken_when_it_has_one() -> None:
    bundle = find_bundle()
    if bundle is None:
        pytest.skip("no bundle here")
    has_head = has_mask_head(load_manifest(bundle))
    assert resolve_segmenter(SegmenterConfig(), bundle).model == ("nano" if has_head else "none")
    assert resolve_segmenter(SegmenterConfig(), None).model == "none"
    named = resolve_segmenter(SegmenterConfig(model="nano"), bundle)
    assert named.folder == str(bundle)
    if not has_head:
        with pytest.raises(WeightsError, match="mask head"):
            open_segmenter(named)


def test_everything_without_a_segmenter_is_an_error_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"everything.*none.*ureca weights get"):
        from_plain(NodeConfig, {"segmenter": {"model": "none", "everything": True}})
    with pytest.raises(ConfigError, match="this captioner has no mask head"):
        open_segmentation_worker(SegmenterConfig(everything=True))
    assert open_segmentation_worker(SegmenterConfig()) is None
