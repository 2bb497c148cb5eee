"""Detectors' files and settings that do not fit; and where images lie on the network's input."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.models.detector_graphs import (
    DetectorGraph,
    make_class_logits,
    make_queries,
    make_torchvision,
    make_ultralytics,
)
from tests.models.detector_scenes import (
    NAMES,
    PLAIN,
    check_found,
    opened,
    picture,
)
from ureca.errors import BundleError, ConfigError, EngineError
from ureca.models.onnx_file import list_external_data
from ureca.models.runtime.segmentation.detectors.config import (
    LAYOUTS,
    DetectorInput,
    load_detector_config,
    make_detector_config,
)
from ureca.models.runtime.segmentation.detectors.detected_image import compute_image_features
from ureca.models.runtime.segmentation.detectors.onnx_detector import (
    open_onnx_detector,
)
from ureca.models.runtime.segmentation.detectors.open_external import open_external_segmenter
from ureca.models.runtime.segmentation.detectors.placement import place_image

# --- files that do not fit ------------------------------------------------------------------------


def test_the_wrong_layout_says_what_the_file_has(tmp_path):
    path = make_queries(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"expected one output boxes.*class_queries_logits float"):
        opened(path, "rf-detr-seg")
    with pytest.raises(ConfigError, match=r"expected one output predictions") as raised:
        opened(make_torchvision(tmp_path / "t.onnx"), "ultralytics", input={"size": 64})
    assert "masks float[3, 1, h, w]" in str(raised.value)
    with pytest.raises(BundleError, match="expected 504 or 510 rows"):
        opened(make_ultralytics(tmp_path / "u.onnx", masks=False), "yolox")


def test_outputs_of_one_shape_are_told_apart_by_names(tmp_path):
    graph = DetectorGraph((1, 3, 64, 64))
    boxes = graph.op("Div", graph.find_centres(), graph.constant(64.0))
    outputs = {
        "p": (graph.op("Unsqueeze", boxes, graph.constant([0])), (1, 3, 4)),
        "q": (graph.constant(make_class_logits(4)), (1, 3, 4)),
    }
    path = graph.save(tmp_path / "m.onnx", outputs)
    with pytest.raises(ConfigError, match=r"2 of the file's outputs fit.*outputs: \{boxes: NAME\}"):
        opened(path, "rf-detr")
    check_found(
        opened(path, "rf-detr", outputs={"boxes": "p"}, input=PLAIN, classes=list(NAMES)), (64, 64)
    )
    with pytest.raises(ConfigError, match="no output 'z'"):
        opened(path, "rf-detr", outputs={"boxes": "z"})
    with pytest.raises(ConfigError, match="expected boxes, logits, got 'scores'"):
        opened(path, "rf-detr", outputs={"scores": "p"})


def test_shapes_that_do_not_fit_each_other_are_refused_at_the_start(tmp_path):
    graph = DetectorGraph((1, 3, 64, 64))
    outputs = {
        "logits": (graph.constant(make_class_logits(4, softmax=True)), (1, "n", 4)),
        "masks": (graph.constant(np.zeros((1, 7, 16, 16), np.float32)), (1, "m", 16, 16)),
    }
    path = graph.save(tmp_path / "m.onnx", outputs)
    with pytest.raises(BundleError, match=r"masks float.*with Q = 3.*got \[1, 7, 16, 16\]"):
        opened(path, "mask2former")


def test_values_that_are_not_finite_are_an_error(tmp_path):
    graph = DetectorGraph((1, 3, 64, 64))
    outputs = {
        "logits": (graph.constant(make_class_logits(4, softmax=True)), (1, 3, 4)),
        "masks": (graph.constant(np.full((1, 3, 16, 16), np.nan, np.float32)), (1, 3, 16, 16)),
    }
    path = graph.save(tmp_path / "m.onnx", outputs)
    with pytest.raises(EngineError, match="masks has values that are not finite"):
        opened(path, "mask2former")


def test_outputs_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    path = make_queries(tmp_path / "model.onnx")
    monkeypatch.setattr("ureca.models.runtime.segmentation.detectors.outputs.MOST_VALUES", 100)
    with pytest.raises(BundleError, match=r"at most 100 output values, got 783"):
        opened(path, "mask2former")


def test_inputs_that_are_no_image_and_sizes_that_differ(tmp_path):
    path = make_queries(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"input.size must be \[64, 64\]"):
        opened(path, "mask2former", input={"size": 80})
    graph = DetectorGraph((1, 5, 64, 64))
    graph.save(tmp_path / "five.onnx", {"x": (graph.image, (1, 5, 64, 64))})
    with pytest.raises(ConfigError, match=r"expected one image input.*image float\[1, 5, 64, 64\]"):
        opened(tmp_path / "five.onnx", "yolox")
    graph = DetectorGraph((1, 3, "H", "W"))
    logits = graph.constant(make_class_logits(5, softmax=True))
    outputs = {"logits": (logits, (1, 3, 5)), "masks": (graph.pool_masks(), (1, 3, "h", "w"))}
    path = graph.save(tmp_path / "open.onnx", outputs)
    with pytest.raises(ConfigError, match=r"say `input: \{size"):
        opened(path, "mask2former")
    check_found(
        opened(path, "mask2former", input={**PLAIN, "size": [96, 64]}, classes=list(NAMES)),
        (80, 60),
    )


def test_settings_are_strict():
    with pytest.raises(ConfigError, match="expected layout: one of detr, eomt"):
        make_detector_config({"layout": "yolo"})
    with pytest.raises(ConfigError, match="did you mean 'score_threshold'"):
        make_detector_config({"layout": "yolox", "score_treshold": 0.2})
    with pytest.raises(ConfigError, match="mask_threshold between 0 and 1"):
        make_detector_config({"layout": "yolox", "mask_threshold": 1.5})
    with pytest.raises(ConfigError, match=r"max_masks 1\.\.512"):
        make_detector_config({"layout": "yolox", "max_masks": 5000})
    with pytest.raises(ConfigError, match=r"input\.std above 0"):
        make_detector_config({"layout": "yolox", "input": {"std": [1, 0, 1]}})
    with pytest.raises(ConfigError, match="printable class name"):
        make_detector_config({"layout": "yolox", "classes": ["cup", "a\x1b[2J"]})
    with pytest.raises(ConfigError, match="size"):
        make_detector_config({"layout": "yolox", "input": {"size": 100_000}})


def test_every_example_of_the_page_is_valid(repository):
    page = (repository / "docs" / "detectors.md").read_text("utf-8")
    examples = [
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    ]
    layouts = [make_detector_config(one).layout for one in examples if "layout" in one]
    assert set(layouts) == set(LAYOUTS)


def test_class_names_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n\n")
    text = yaml.safe_dump({"layout": "rf-detr", "classes": "names.txt"})
    (tmp_path / "model.yaml").write_text(text)
    assert load_detector_config(tmp_path / "model.yaml").classes == NAMES
    (tmp_path / "names.txt").unlink()
    with pytest.raises(ConfigError, match="cannot read the class names"):
        load_detector_config(tmp_path / "model.yaml")


def test_opening_by_path_needs_the_yaml_and_says_what_the_file_has(tmp_path):
    path = make_ultralytics(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"(?s)no .*model.yaml.*layout.*output1 float\[1, 3, 32"):
        open_onnx_detector(path)
    (tmp_path / "model.yaml").write_text("layout: ultralytics-seg\n")
    check_found(open_external_segmenter(str(path)), (64, 96))
    (tmp_path / "other.yaml").write_text("layout: ultralytics-seg\nmax_masks: 1\n")
    other = open_external_segmenter(str(path), layout=str(tmp_path / "other.yaml"))
    assert len(other.encode(picture((64, 96))).predictions) == 1
    assert open_external_segmenter("sam2-hiera-tiny") is None
    with pytest.raises(BundleError, match=r"no .*none\.onnx"):
        open_external_segmenter(str(tmp_path / "none.onnx"))


def external(tmp_path, location):
    path = make_queries(tmp_path / "model.onnx")
    model = onnx.load(path)
    onnx.external_data_helper.convert_model_to_external_data(
        model, location="weights.bin", size_threshold=0
    )
    onnx.save(model, path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_file_are_found_and_none_elsewhere(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder, "weights.bin")
    assert list_external_data(path) == ["weights.bin"]
    check_found(opened(path, "mask2former", input=PLAIN, classes=list(NAMES)), (64, 64))
    (tmp_path / "secret.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "", "a\\b"):
        with pytest.raises(BundleError, match="no path that leads out of it"):
            opened(external(folder, location), "mask2former")
    with pytest.raises(BundleError, match="no such file"):
        opened(external(folder, "gone.bin"), "mask2former")


def test_external_data_inside_an_attribute_is_seen(tmp_path):
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../up.bin")
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    inner = onnx.helper.make_graph([node], "inner", [], [])
    outer = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([outer], "outer", [], [])
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert list_external_data(path) == ["../up.bin"]


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\x0f", b"\x3a" * 50]
)
def test_files_that_are_no_models_are_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    (tmp_path / "model.yaml").write_text("layout: yolox\n")
    with pytest.raises(BundleError):
        open_onnx_detector(path)


def test_a_stopped_detector_raises(tmp_path):
    detector = opened(make_queries(tmp_path / "model.onnx"), "mask2former")
    detector.stop()
    with pytest.raises(EngineError):
        detector.encode(picture((64, 64)))


# --- placement ------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    canvas=st.tuples(st.integers(32, 700), st.integers(32, 700)),
    resize=st.sampled_from(["letterbox", "stretch"]),
    place=st.sampled_from(["centre", "upper-left"]),
    shares=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_boxes_go_to_the_canvas_and_back(size, canvas, resize, place, shares):
    where = place_image(size, DetectorInput(resize=resize, place=place), canvas)
    (left, top), (height, width) = where.corner_xy_px, where.filled
    assert min(left, top) >= 0
    assert left + width <= canvas[1]
    assert top + height <= canvas[0]
    if resize == "stretch":
        assert where.filled == canvas
    else:
        assert width == canvas[1] or height == canvas[0]
        margins = (canvas[1] - width) // 2, (canvas[0] - height) // 2
        assert (left, top) == (margins if place == "centre" else (0, 0))
    box = np.array([shares], np.float32) * np.array((size[1], size[0]) * 2, np.float32)
    on_canvas = box * np.array(where.scale_xy * 2) + np.array(where.corner_xy_px * 2)
    back = where.map_boxes_to_image(on_canvas.astype(np.float32))
    assert np.allclose(back, box, atol=0.02 * max(1, max(size) / min(where.filled)))


@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    canvas=st.tuples(st.integers(32, 200), st.integers(32, 200)),
    cells=st.sampled_from([1, 2, 4]),
    place=st.sampled_from(["centre", "upper-left"]),
)
def test_a_ramp_over_the_canvas_is_a_ramp_over_the_image(size, canvas, cells, place):
    canvas = tuple(side // cells * cells for side in canvas)
    where = place_image(size, DetectorInput(resize="letterbox", place=place), canvas)
    height, width = (side // cells for side in canvas)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    x_canvas, y_canvas = (xs + 0.5) * cells, (ys + 0.5) * cells
    shown = where.crop_to_image(np.stack((x_canvas, y_canvas)))
    rows, columns = shown.shape[1:]
    down, right = np.mgrid[:rows, :columns]
    x = where.corner_xy_px[0] + (right + 0.5) / columns * where.filled[1]
    y = where.corner_xy_px[1] + (down + 0.5) / rows * where.filled[0]
    # The canvas ends at the middle of its last cell; cv2 interpolates in steps of 1/32.
    assert np.abs(shown[0] - np.clip(x, cells / 2, canvas[1] - cells / 2)).max() < cells * 0.05
    assert np.abs(shown[1] - np.clip(y, cells / 2, canvas[0] - cells / 2)).max() < cells * 0.05


def test_features_tell_colours_apart_and_are_the_same_twice():
    image = picture((120, 160))
    features = compute_image_features(image)
    assert features.shape == (8, 48, 64)
    assert np.array_equal(features, compute_image_features(image))
    assert np.isfinite(features).all()
    red, green = features[:, 18, 18], features[:, 15, 45]
    assert np.linalg.norm(red - green) > 5 * np.linalg.norm(red - features[:, 14, 16])
