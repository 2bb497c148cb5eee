"""Other projects' detectors as segmenters: every layout, prompts, and masks of boxes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from tests.models.detector_graphs import (
    SCORES,
    DetectorGraph,
    make_class_logits,
    make_detr,
    make_queries,
    make_torchvision,
    make_ultralytics,
    make_yolox,
)
from tests.models.detector_scenes import (
    NAMES,
    PLAIN,
    SIZES,
    check_found,
    iou,
    opened,
    picture,
    truth,
)
from ureca.errors import ConfigError
from ureca.models.nano.masks.config import MaskHeadConfig
from ureca.models.nano.masks.graphs import TorchMaskGraphs
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.segmentation.base import MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.config import (
    LAYOUTS,
    make_detector_config,
)
from ureca.models.runtime.segmentation.detectors.layouts import READERS
from ureca.models.runtime.segmentation.detectors.onnx_detector import (
    OnnxDetector,
)
from ureca.models.runtime.segmentation.detectors.open_external import open_external_segmenter
from ureca.models.runtime.segmentation.mask_head import MaskHeadSegmenter
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter

LAYOUT_CASES = {
    "rf-detr-seg": lambda path: (make_detr(path, masks=True), {"input": PLAIN}),
    "rf-detr": lambda path: (make_detr(path, masks=False), {"input": PLAIN}),
    "detr": lambda path: (make_detr(path, masks=False, softmax=True), {"input": PLAIN}),
    "mask2former": lambda path: (make_queries(path), {"input": PLAIN}),
    "eomt": lambda path: (make_queries(path, 96, 96), {"input": PLAIN}),
    "ultralytics-seg": lambda path: (make_ultralytics(path), {}),
    "ultralytics": lambda path: (make_ultralytics(path, masks=False), {}),
    "yolox": lambda path: (make_yolox(path), {"input": {"channels": "rgb"}}),
    "torchvision-maskrcnn": lambda path: (make_torchvision(path), {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_layout_finds_the_things_in_pixels_of_the_image(tmp_path, layout, size):
    path, more = LAYOUT_CASES[layout](tmp_path / "model.onnx")
    first = ("",) if layout == "torchvision-maskrcnn" else ()
    classes = dict(enumerate((*first, *NAMES)))
    classes.pop(0 if first else -1, None)
    check_found(opened(path, layout, classes=classes, **more), size, least=0.75)


@pytest.mark.parametrize("masks", [True, False])
def test_ultralytics_end_to_end_and_names_of_the_metadata(tmp_path, masks):
    path = make_ultralytics(tmp_path / "model.onnx", masks=masks, end_to_end=True)
    check_found(opened(path, "ultralytics-seg" if masks else "ultralytics"), (90, 120))


def test_nms_drops_the_second_of_two_alike_and_can_be_switched_off(tmp_path):
    path = make_ultralytics(tmp_path / "model.onnx")
    image = picture((64, 96))
    assert len(opened(path, "ultralytics-seg").encode(image).predictions) == 3
    assert len(opened(path, "ultralytics-seg", nms_iou=1.0).encode(image).predictions) == 6
    assert len(opened(path, "ultralytics-seg", max_masks=2).encode(image).predictions) == 2


def test_scores_below_the_threshold_are_left_out(tmp_path):
    path = make_detr(tmp_path / "model.onnx", masks=True)
    detector = opened(path, "rf-detr-seg", input=PLAIN, score_threshold=0.7)
    assert len(detector.encode(picture((60, 80))).predictions) == 2


def test_yolox_reads_bgr_unless_told_and_decoded_boxes(tmp_path):
    detector = opened(make_yolox(tmp_path / "a.onnx"), "yolox", classes=list(NAMES))
    found = detector.everything(detector.encode(picture((64, 96))))
    assert iou(found[0].mask((64, 96)), truth((64, 96), "blue")) > 0.8  # channel 0 is blue
    path = make_yolox(tmp_path / "b.onnx", decoded=True)
    more = {"boxes_decoded": True, "input": {"channels": "rgb"}, "classes": list(NAMES)}
    check_found(opened(path, "yolox", **more), (100, 77))


def test_mean_and_deviation_and_other_input_types(tmp_path):
    graph = DetectorGraph((1, 3, 64, 64), onnx.TensorProto.UINT8)
    graph.image = graph.op("Div", graph.image, graph.constant(255.0))
    masks = graph.pool_masks()
    logits = graph.constant(make_class_logits(4, softmax=True))
    path = graph.save(tmp_path / "m.onnx", {"a": (logits, (1, 3, 4)), "b": (masks, (1, 3, 16, 16))})
    settings = {"input": {**PLAIN, "scale": 1}, "classes": list(NAMES)}
    check_found(opened(path, "mask2former", **settings), (64, 64))
    graph = DetectorGraph((1, 3, 64, 64))
    graph.image = graph.op("Mul", graph.image, graph.constant(0.25))
    graph.image = graph.op("Add", graph.image, graph.constant(0.5))
    outputs = {
        "masks": (graph.pool_masks(), (1, 3, 16, 16)),
        "logits": (graph.constant(make_class_logits(4, softmax=True)), (1, 3, 4)),
    }
    path = graph.save(tmp_path / "n.onnx", outputs)
    settings = {"input": {"mean": [0.5] * 3, "std": [0.25] * 3}, "classes": list(NAMES)}
    check_found(opened(path, "mask2former", **settings), (64, 64))


def test_a_mask_threshold_makes_masks_smaller(tmp_path):
    path = make_queries(tmp_path / "model.onnx", 64, 64)
    areas = []
    for threshold in (0.05, 0.5, 0.99):
        detector = opened(path, "mask2former", input=PLAIN, mask_threshold=threshold)
        found = detector.everything(detector.encode(picture((57, 83))))
        areas.append(np.count_nonzero(found[0].mask((57, 83))))
    assert areas[0] > areas[1] > areas[2] > 0


def test_no_object_is_no_class():
    logits = np.log(np.array([[[0.04, 0.01, 0.95], [0.1, 0.6, 0.3]]], np.float32))
    masks = np.full((1, 2, 4, 4), 9.0, np.float32)
    config = make_detector_config({"layout": "mask2former", "score_threshold": 0.03})
    found = READERS["mask2former"].read({"logits": logits, "masks": masks}, config, (16, 16))
    assert found.labels.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.6, 0.04], abs=1e-3)


def test_masks_of_ultralytics_end_at_their_boxes():
    row = [16, 32, 32, 32, 0.9, 5.0]  # centre, size, one class, one coefficient
    table = np.array(row, np.float32)[None, :, None]
    outputs = {"predictions": table, "prototypes": np.ones((1, 1, 16, 16), np.float32)}
    config = make_detector_config({"layout": "ultralytics-seg"})
    found = READERS["ultralytics-seg"].read(outputs, config, (64, 64))
    inside = np.zeros((16, 16), np.bool_)
    inside[4:12, 0:8] = True
    assert np.array_equal(found.logits[0] > 0, inside)


def test_yolox_scores_are_those_of_the_class_times_objectness():
    table = np.zeros((1, 84, 6), np.float32)
    table[0, :3, 4:] = [(0.1, 1.0), (0.9, 0.5), (0.8, 0.9)]
    config = make_detector_config({"layout": "yolox"})
    found = READERS["yolox"].read({"predictions": table}, config, (64, 64))
    assert found.scores.tolist() == pytest.approx([0.72, 0.45])


def test_masks_may_be_probabilities(tmp_path):
    graph = DetectorGraph((1, 3, 64, 64))
    outputs = {
        "masks": (graph.op("Sigmoid", graph.pool_masks()), (1, 3, 16, 16)),
        "logits": (graph.constant(make_class_logits(4, softmax=True)), (1, 3, 4)),
    }
    path = graph.save(tmp_path / "m.onnx", outputs)
    more = {"input": PLAIN, "masks": "probabilities", "classes": list(NAMES)}
    check_found(opened(path, "mask2former", **more), (64, 64))


def test_nothing_in_the_image_is_an_empty_list_and_answers_of_score_zero(tmp_path):
    path = make_queries(tmp_path / "model.onnx")
    detector = opened(path, "mask2former", input=PLAIN)
    encoded = detector.encode(np.zeros((40, 50, 3), np.uint8))
    assert detector.everything(encoded) == []
    prompts = [
        SegmenterPrompt(points_xy_px=((3, 3),)),
        SegmenterPrompt(box_xyxy_px=(1, 1, 20, 20)),
        SegmenterPrompt(soft=np.ones((4, 4), np.float32)),
    ]
    for answer in detector.segment(encoded, prompts):
        assert [one.score for one in answer] == [0.0]
        assert not answer[0].mask((40, 50)).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (700, 2), (3, 5)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_sizes_of_images_do_not_fail(tmp_path, layout, size):
    path, more = LAYOUT_CASES[layout](tmp_path / "model.onnx")
    detector = opened(path, layout, **more)
    encoded = detector.encode(np.full((*size, 3), 255, np.uint8))
    for one in detector.everything(encoded):
        assert one.mask(size).shape == size
    assert detector.features(encoded).shape[0] == 8


# --- prompts --------------------------------------------------------------------------------------


def nested_detector(tmp_path):
    """A small red thing on a large green one."""
    detector = opened(
        make_queries(tmp_path / "m.onnx", 128, 128), "mask2former", input=PLAIN, classes=list(NAMES)
    )
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:90, 10:90, 1] = 255
    image[30:50, 30:50, 0] = 255
    return detector, detector.encode(image)


def test_a_click_gets_what_holds_it_the_smallest_first(tmp_path):
    detector, encoded = nested_detector(tmp_path)
    ask = lambda **prompt: [  # noqa: E731
        (one.label, round(one.score, 1))
        for one in detector.segment(encoded, [SegmenterPrompt(**prompt)])[0]
    ]
    assert ask(points_xy_px=((40, 40),)) == [("red", 0.9), ("green", 0.8)]
    assert ask(points_xy_px=((70, 70),)) == [("green", 0.8)]
    assert ask(points_xy_px=((40, 40), (70, 70))) == [("green", 0.8)]
    assert ask(points_xy_px=((70, 70),), not_points_xy_px=((40, 40),)) == [(None, 0.0)]
    assert ask(points_xy_px=((2, 2),)) == [(None, 0.0)]
    assert ask(points_xy_px=((-5, 400),)) == [(None, 0.0)]


def test_a_box_gets_the_detection_that_fits_it_best(tmp_path):
    detector, encoded = nested_detector(tmp_path)
    prompts = [
        SegmenterPrompt(box_xyxy_px=(29, 29, 51, 51)),
        SegmenterPrompt(box_xyxy_px=(8, 8, 92, 92)),
        SegmenterPrompt(box_xyxy_px=(10, 10, 90, 30)),
        SegmenterPrompt(box_xyxy_px=(0, 0, 8, 8)),
        SegmenterPrompt(box_xyxy_px=(28, 28, 52, 52), points_xy_px=((40, 40),)),
    ]
    small, large, loose, none, both = (row[0] for row in detector.segment(encoded, prompts))
    assert (small.label, round(small.score, 1)) == ("red", 0.9)
    assert (large.label, round(large.score, 1)) == ("green", 0.8)
    assert loose.label == "green"
    assert 0.2 < loose.score < 0.6, "a box that fits badly lowers the score"
    assert (none.label, none.score) == (None, 0.0)
    assert both.label == "red"


def test_a_point_decides_between_boxes(tmp_path):
    detector, _ = nested_detector(tmp_path)
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:90, 40:90, 1] = 255
    image[10:90, 10:50, 0] = 255
    around_green = {"box_xyxy_px": (40, 10, 90, 90)}
    prompts = [
        SegmenterPrompt(**around_green),
        SegmenterPrompt(**around_green, points_xy_px=((20, 50),)),
        SegmenterPrompt(**around_green, points_xy_px=((2, 2),)),
    ]
    answers = detector.segment(detector.encode(image), prompts)
    assert [row[0].label for row in answers] == ["green", "red", "green"]
    assert answers[1][0].score < answers[0][0].score


def test_a_mask_gets_the_detection_that_overlaps_most(tmp_path):
    detector, encoded = nested_detector(tmp_path)
    soft = np.zeros((50, 50), np.float32)
    soft[15:25, 15:25] = 0.9
    answer = detector.segment(encoded, [SegmenterPrompt(soft=soft)])[0]
    assert answer[0].label == "red"


# --- masks of boxes -------------------------------------------------------------------------------


def disc_picture():
    ys, xs = np.mgrid[:96, :96]
    disc = (xs - 40) ** 2 + (ys - 50) ** 2 < 25**2
    image = np.zeros((96, 96, 3), np.uint8)
    image[disc, 0] = 255
    return image, disc


@pytest.mark.parametrize(("method", "low", "high"), [("fill", 0.7, 0.85), ("grabcut", 0.93, 1.0)])
def test_boxes_become_masks_by_rule(tmp_path, method, low, high):
    image, disc = disc_picture()
    path = make_detr(tmp_path / "m.onnx", 96, masks=False)
    detector = opened(path, "rf-detr", input=PLAIN, box_masks=method, score_threshold=0.85)
    (found,) = detector.everything(detector.encode(image))
    assert low < iou(found.mask((96, 96)), disc) <= high
    again = detector.everything(detector.encode(image))
    assert np.array_equal(found.logits, again[0].logits)


def test_boxes_become_masks_by_another_segmenter_where_there_is_one(tmp_path):
    image, disc = disc_picture()
    path = make_detr(tmp_path / "m.onnx", 96, masks=False)
    config = make_detector_config({"layout": "rf-detr", "input": PLAIN, "score_threshold": 0.85})
    detector = OnnxDetector(path, config, boxes_to_masks=ScriptedSegmenter())
    (found,) = detector.everything(detector.encode(image))
    assert iou(found.mask((96, 96)), disc) == 1.0
    with pytest.raises(ConfigError, match="needs the mask head"):
        opened(path, "rf-detr", box_masks="segmenter")


def test_a_box_whose_mask_is_empty_stays_filled(tmp_path):
    class Blind(ScriptedSegmenter):
        def segment(self, encoded, prompts):
            return [(MaskPrediction(np.full((50, 50), -1, np.float32), 0.9),) for _ in prompts]

    path = make_detr(tmp_path / "m.onnx", masks=False)
    config = make_detector_config({"layout": "rf-detr", "input": PLAIN, "classes": NAMES})
    check_found(OnnxDetector(path, config, boxes_to_masks=Blind()), (100, 100))


def test_boxes_become_masks_by_the_mask_head(tmp_path):
    """Of random weights, so only what goes in and comes out is looked at."""
    torch.manual_seed(0)
    small = MaskHeadConfig(
        trunk="efficientnet-lite0", canvas_px=(64, 96), channels=16, map_channels=8
    )
    head = MaskHeadSegmenter(TorchMaskGraphs(MaskNetwork(small)))
    path = make_detr(tmp_path / "m.onnx", masks=False)
    config = make_detector_config({"layout": "rf-detr", "input": PLAIN, "classes": NAMES})
    detector = OnnxDetector(path, config, boxes_to_masks=head)
    image = picture((60, 80))
    found = detector.encode(image)
    asked = SegmenterPrompt(box_xyxy_px=tuple(found.boxes[0].tolist()))
    (answer,) = head.segment(head.encode(image), [asked])
    best = max(answer, key=lambda one: one.score)
    np.testing.assert_allclose(found.predictions[0].logits, best.logits, atol=1e-4)
    assert found.predictions[0].score == pytest.approx(SCORES[0], abs=0.01)
    assert {one.logits.shape for one in found.predictions} == {best.logits.shape}


def test_the_other_segmenter_is_opened_for_boxes_alone(tmp_path):
    opens = []

    def open_it():
        opens.append(1)
        return ScriptedSegmenter()

    for name, made, layout, times in (
        ("boxes", make_detr(tmp_path / "boxes.onnx", masks=False), "layout: rf-detr", 1),
        ("both", make_detr(tmp_path / "both.onnx", masks=True), "layout: rf-detr-seg", 1),
        (
            "told",
            make_detr(tmp_path / "told.onnx", masks=False),
            "{layout: detr, box_masks: fill}",
            1,
        ),
    ):
        (tmp_path / f"{name}.yaml").write_text(layout)
        open_external_segmenter(str(made), open_box_segmenter=open_it)
        assert len(opens) == times, name
