"""Weights and graphs of strangers: each is a typed error, soon, and nothing else is read."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import json
import shutil
import struct

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need the extra `train`")
onnx = pytest.importorskip("onnx", reason="graphs need the extra `export`")

from ureca.errors import BundleError, WeightsError
from ureca.models.config import make_tiny_config
from ureca.models.nano.checkpoint import load_checkpoint, save_checkpoint
from ureca.models.nano.masks.checkpoint import load_mask_checkpoint
from ureca.models.nano.network import Captioner
from ureca.models.runtime.ort import open_session
from ureca.models.tokenizer import train_tokenizer


def pack(header, body=b""):
    """A safetensors file: length of the header, header, tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape, begin=0, end=16, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "empty": b"",
    "cut": b"\x01",
    "longest": struct.pack("<Q", 2**64 - 1) + b"{}",
    "longer than the file": struct.pack("<Q", 90 << 20) + b"{}",
    "no JSON": pack(b"hello"),
    "deep": pack(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "past the end": pack({"a": tensor([4])}),
    "overlapping": pack({"a": tensor([4]), "b": tensor([4], 8, 24)}, bytes(24)),
    "overflow": pack({"a": tensor([2**40, 2**40])}, bytes(16)),
    "negative": pack({"a": tensor([-1])}, bytes(16)),
    "unknown type": pack({"a": tensor([4], dtype="X9")}, bytes(16)),
    "no bytes and 2^62 rows": pack({"a": tensor([0, 2**62], 0, 0)}),
    "many": pack({f"t{n}": tensor([0], 0, 0) for n in range(20_000)}),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    text = train_tokenizer(["a red cup"] * 4, 512)
    text.save(folder / "given.json")
    model = Captioner(make_tiny_config())
    save_checkpoint(folder, model, tokenizer_json=(folder / "given.json").read_text(), half=True)
    return folder


@pytest.mark.parametrize("name", HEADERS)
def test_a_file_of_tensors_is_refused(checkpoint, tmp_path, name):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(WeightsError) as told:
        load_checkpoint(tmp_path)
    assert len(str(told.value)) < 3000, "one error is no megabyte"


@pytest.mark.parametrize("load", [load_checkpoint, load_mask_checkpoint])
def test_a_configuration_of_any_depth_is_refused(checkpoint, tmp_path, load):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(WeightsError):
        load(tmp_path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "gone.bin"])
def test_a_graph_of_a_bundle_reads_no_other_file(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    weight.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info("y", 1, [4])
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [value], [weight])
    folder = tmp_path / "bundle"
    folder.mkdir()
    path = folder / "lm.onnx"
    path.write_bytes(onnx.helper.make_model(graph, ir_version=10).SerializeToString())
    with pytest.raises(BundleError, match="wants its weights from"):
        open_session(path, threads=1)
