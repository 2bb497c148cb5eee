"""The cache of exported graphs: right, or not used."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import pytest

pytest.importorskip("torch", reason="exporting needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="exporting needs the extra `export`")

from onnx import TensorProto, helper

from ureca.export.graphs.cache import find_cache_folder, load_or_make_graph


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("URECA_CACHE", str(tmp_path / "cache"))


class Maker:
    """Counts how often a graph had to be made."""

    calls = 0

    def __call__(self):
        self.calls += 1
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        node = helper.make_node("Identity", ["x"], ["y"])
        other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        return helper.make_model(helper.make_graph([node], "g", [value], [other]))


def test_a_graph_is_made_once(tmp_path):
    make = Maker()
    first = load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24)
    assert load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24) == first
    assert make.calls == 1
    assert find_cache_folder() == tmp_path / "cache" / "graphs"


def test_other_weights_opsets_and_names_are_other_graphs():
    make = Maker()
    for name, weights, opset in (("lm", "a", 24), ("lm", "b", 24), ("lm", "a", 23), ("v", "a", 24)):
        load_or_make_graph(name, make, checkpoint_sha256=weights, opset=opset)
    assert make.calls == 4


def test_a_damaged_file_is_made_again():
    make = Maker()
    load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24)
    (path,) = find_cache_folder().iterdir()
    path.write_bytes(b"\xff" * 30)
    load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24)
    load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24)
    assert make.calls == 2


def test_a_folder_that_cannot_be_written_costs_only_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("URECA_CACHE", str(tmp_path / "file"))
    make = Maker()
    for _ in range(2):
        load_or_make_graph("lm", make, checkpoint_sha256="a", opset=24)
    assert make.calls == 2
