"""The exporter's parts that need no network: interfaces, cases, small graphs."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("torch", reason="exporting needs the extra `export`")

from dataclasses import replace

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ureca.config import load_config
from ureca.errors import ConfigError, SourceError
from ureca.export.config import ExportConfig
from ureca.export.graphs.interfaces import build_interfaces, count_max_positions, count_max_tiles
from ureca.export.graphs.quantise import SCHEMES, count_int8_products, quantise_int8, store_as_f16
from ureca.export.parity.parity_inputs import make_synthetic_cases, prepare_arrays, read_real_cases
from ureca.models.config import CaptionerConfig, make_tiny_config
from ureca.models.tokenizer import LONG_ID, SHORT_ID


def test_one_tile_fixes_every_size_but_regions_and_lengths():
    lm = build_interfaces(CaptionerConfig())["lm"]
    free = {d for spec in lm.inputs for d in spec.shape if isinstance(d, str)}
    assert free == {"N", "Q", "P", "S"}
    vision = build_interfaces(CaptionerConfig())["vision"]
    assert not {d for spec in (*vision.inputs, *vision.outputs) for d in spec.shape} & {"T", "P"}


def test_more_tiles_free_the_tile_count():
    config = make_tiny_config()
    tiled = replace(config, vision=replace(config.vision, max_tiles=8))
    assert count_max_tiles(config) == 1
    assert count_max_tiles(tiled) == 9
    assert build_interfaces(tiled)["vision"].inputs[0].shape[0] == "T"
    assert build_interfaces(tiled)["regions"].outputs[0].shape[1] == "K"
    assert count_max_positions(tiled) > count_max_positions(config)


@pytest.mark.parametrize("config", [CaptionerConfig(), make_tiny_config()])
def test_the_position_table_covers_the_longest_call(config):
    longest = config.vision.tokens_per_tile + config.regions.count_tokens(1) + 1
    assert count_max_positions(config) >= longest + config.language.max_new_tokens
    assert count_max_positions(config) % 32 == 0


def test_names_are_unique_within_a_graph():
    for interface in build_interfaces(make_tiny_config()).values():
        names = interface.input_names + interface.output_names
        assert len(set(names)) == len(names)


def test_synthetic_cases_are_seeded_and_complete():
    cases = make_synthetic_cases(limit=11, seed=4)
    assert [len(case.masks) for case in cases] == [8, 3]
    again = make_synthetic_cases(limit=11, seed=4)
    np.testing.assert_array_equal(cases[1].image, again[1].image)
    assert all(mask.any() for case in cases for mask in case.masks)
    arrays = prepare_arrays(cases[1], make_tiny_config().vision)
    assert arrays.masks.shape == (3, 1, 32, 32)
    assert arrays.start_ids[:, 0].tolist() == [SHORT_ID, LONG_ID, SHORT_ID]


@pytest.mark.data
def test_real_cases_are_held_out_regions(data_root):
    regions, images = data_root / "regions-train.jsonl.gz", data_root / "images"
    if not regions.exists():
        pytest.skip(f"no {regions.name} in {data_root}")
    cases = read_real_cases(regions, images, limit=10)
    assert sum(len(case.masks) for case in cases) == 10
    assert all(m.shape == case.image.shape[:2] for case in cases for m in case.masks)


def test_files_without_a_common_picture_are_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text("")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(SourceError, match="no held-out picture"):
        read_real_cases(tmp_path / "r.jsonl", tmp_path, limit=5)


def graph(weight):
    """y = x @ w with w [64, 32], and an addition of a table as large as a weight."""
    table = np.linspace(0, 1, 32 * 16, dtype=np.float32).reshape(16, 32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "table"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 32])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto, x):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.fixture
def weight(rng):
    return rng.normal(size=(64, 32)).astype(np.float32)


def test_half_storage_rounds_weights_and_nothing_else(weight, rng):
    x = rng.normal(size=(16, 64)).astype(np.float32)
    rounded = weight.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(store_as_f16(graph(weight)), x), run(graph(rounded), x))
    assert store_as_f16(graph(weight)).ByteSize() < graph(weight).ByteSize() - 64 * 32


@pytest.mark.parametrize("scheme", SCHEMES)
def test_int8_is_near_on_every_processor_and_counted(weight, rng, scheme):
    x = rng.normal(size=(16, 64)).astype(np.float32)
    small = quantise_int8(graph(weight), scheme)
    assert count_int8_products(graph(weight)) == 0
    assert count_int8_products(small) == 1
    exact = run(graph(weight), x)
    error = np.abs(run(small, x) - exact).max()
    assert 0 < error < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["nano", "exact"])
def test_shipped_configurations_load(repository, name):
    config = load_config(ExportConfig, repository / "configs" / "export" / f"{name}.yaml")
    assert config.precision in {"int8", "fp32"}


def test_an_unknown_option_names_the_nearest(tmp_path):
    (tmp_path / "c.yaml").write_text("presicion: int8\n")
    with pytest.raises(ConfigError, match="precision"):
        load_config(ExportConfig, tmp_path / "c.yaml")
