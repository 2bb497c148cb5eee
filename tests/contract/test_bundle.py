from __future__ import annotations

import json

import msgspec
import pytest

from ureca import bundle
from ureca.errors import BundleError


@pytest.fixture
def folder(tmp_path):
    for name in (
        "vision.onnx",
        "lm.onnx",
        "embeddings.safetensors",
        "tokenizer.json",
        "parity.json",
    ):
        (tmp_path / name).write_bytes(name.encode() * 100)
    return tmp_path


def _manifest(folder):
    def graph(name):
        spec = bundle.file_spec(folder, name)
        return bundle.GraphSpec(
            file=spec.file,
            sha256=spec.sha256,
            inputs=(bundle.TensorSpec(name="x", dtype="float32", shape=("T", 3, 64, 64)),),
            outputs=(bundle.TensorSpec(name="y", dtype="float32", shape=(1, "P", 32)),),
            precision="fp32",
        )

    return bundle.BundleManifest(
        model={"name": "ureca-tiny", "vision": {"tile_px": 64}},
        checkpoint_sha256="0" * 64,
        graphs={"vision": graph("vision.onnx"), "lm": graph("lm.onnx")},
        embeddings=bundle.file_spec(folder, "embeddings.safetensors"),
        tokenizer=bundle.file_spec(folder, "tokenizer.json"),
        tokens=bundle.TokenIds(pad=0, short=1, long=2, eos=3),
        limits=bundle.Limits(max_regions=32, max_new_tokens=8),
        runtime="onnxruntime",
        runtime_version="1.31.1",
        tolerances={"max_abs_logit_diff": 1e-3},
        extra_files=(bundle.file_spec(folder, "parity.json"),),
    )


def test_a_manifest_reads_back_as_it_was_written(folder):
    manifest = _manifest(folder)
    path = bundle.write_manifest(folder, manifest)
    read = bundle.load_manifest(folder)
    assert read == manifest
    assert read.name == "ureca-tiny"
    assert bundle.bundle_sha(read) == bundle.bundle_sha(manifest)
    assert set(bundle.verify_files(folder, read)) == {spec.file for spec in read.files}
    assert path.read_text().startswith("{\n")
    assert [p.name for p in folder.iterdir() if p.name.endswith(".part")] == []


def test_the_hash_changes_with_any_setting_and_not_with_white_space(folder):
    manifest = _manifest(folder)
    path = bundle.write_manifest(folder, manifest)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert bundle.bundle_sha(bundle.load_manifest(folder)) == bundle.bundle_sha(manifest)
    other = msgspec.structs.replace(manifest, target="sm_87")
    assert bundle.bundle_sha(other) != bundle.bundle_sha(manifest)


def test_an_altered_file_is_named_with_both_sums_and_the_remedy(folder):
    manifest = _manifest(folder)
    bundle.write_manifest(folder, manifest)
    (folder / "lm.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"lm\.onnx was altered") as caught:
        bundle.verify_files(folder, manifest)
    assert manifest.graphs["lm"].sha256 in str(caught.value)
    assert "ureca export" in str(caught.value)
    (folder / "lm.onnx").unlink()
    with pytest.raises(BundleError, match=r"lm\.onnx is missing"):
        bundle.verify_file(folder, manifest.graphs["lm"].spec)


def test_a_missing_manifest_says_what_to_do(tmp_path):
    with pytest.raises(BundleError, match="ureca export"):
        bundle.load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"schema": 2}, "has schema 2"),
        ({"surprise": 1}, "surprise"),
        ({"runtime": 5}, "runtime"),
        ({"tokenizer": {"file": "../../etc/passwd", "sha256": ""}}, "inside the bundle"),
        ({"tokenizer": {"file": "/etc/passwd", "sha256": ""}}, "inside the bundle"),
        ({"tokenizer": {"file": "", "sha256": ""}}, "inside the bundle"),
    ],
)
def test_manifests_that_are_refused(folder, edit, words):
    path = bundle.write_manifest(folder, _manifest(folder))
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(BundleError, match=words):
        bundle.load_manifest(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema": 1}'])
def test_text_that_is_no_manifest(tmp_path, text):
    (tmp_path / bundle.MANIFEST_NAME).write_bytes(text)
    with pytest.raises(BundleError):
        bundle.load_manifest(tmp_path)


def test_a_manifest_is_not_written_over_files_that_are_not_there(folder):
    manifest = _manifest(folder)
    (folder / "vision.onnx").unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.write_manifest(folder, manifest)
    assert not (folder / bundle.MANIFEST_NAME).exists()


def test_a_manifest_of_an_earlier_version_is_read(folder):
    """Manifests once repeated the sizes of `model` as `preprocess`; nothing read them."""
    manifest = _manifest(folder)
    path = bundle.write_manifest(folder, manifest)
    sizes = {"tile_px": 64, "mask_px": 32, "max_tiles": 1}
    path.write_text(json.dumps({**json.loads(path.read_text()), "preprocess": sizes}))
    assert bundle.load_manifest(folder) == manifest
