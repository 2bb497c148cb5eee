"""The mask head in a bundle: its graphs, their proof, and the segmenter over it."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import dataclasses
import json
import shutil
import subprocess
import sys

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

from tests.models.test_eval_masks import data  # noqa: F401 - a fixture
from ureca.bundle import FileSpec, load_manifest, verify_files
from ureca.errors import BundleError, ConfigError, WeightsError
from ureca.export.bundle_writer import add_files
from ureca.export.cli import export_bundle, main
from ureca.export.config import ExportConfig, Tolerances
from ureca.export.graphs.mask_head import describe_mask_head, export_mask_graphs
from ureca.export.graphs.onnx_export import save_graph
from ureca.export.parity.masks import MaskReference, make_golden_case
from ureca.export.parity.masks_report import MaskProof, list_disagreements, list_mask_failures
from ureca.export.parity.parity_inputs import make_synthetic_cases
from ureca.models.evaluation.masks.run import open_segmenter
from ureca.models.nano.masks.checkpoint import load_mask_checkpoint
from ureca.models.nano.masks.config import MaskHeadConfig
from ureca.models.nano.masks.graphs import TorchMaskGraphs
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.segmentation.base import SegmenterPrompt
from ureca.models.runtime.segmentation.bundled import (
    has_mask_head,
    open_mask_graphs,
    open_mask_head,
)
from ureca.models.runtime.segmentation.ort_mask_graphs import OrtMaskGraphs

pytestmark = pytest.mark.timeout(600)

BOUNDS = dataclasses.asdict(Tolerances())
GRAPHS = ("segment.onnx", "prompt.onnx", "masks.onnx")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def copy(masked_bundle, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(masked_bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def network(mask_checkpoint):
    return load_mask_checkpoint(mask_checkpoint)


def test_a_mask_head_is_added_and_the_rest_keeps_its_bytes(masked_bundle, tiny_bundle):
    before, after = contents(tiny_bundle), contents(masked_bundle)
    assert set(after) - set(before) == set(GRAPHS)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"parity.json", "manifest.json"}
    manifest = load_manifest(masked_bundle)
    assert set(GRAPHS) <= set(verify_files(masked_bundle, manifest))
    head = manifest.mask_head
    assert (head.trunk, head.canvas_px, head.map_channels) == ("yolox-nano", (64, 96), 8)
    assert head.proposals == 8 * 12 + 4 * 6 + 2 * 3
    assert manifest.tolerances["mask_iou"] == 0.995


def test_the_proof_stands_beside_the_others(masked_bundle, tiny_bundle):
    report = json.loads((masked_bundle / "parity.json").read_text())
    proof = msgspec.convert(report["mask_head"], MaskProof)
    assert list_mask_failures(proof, BOUNDS) == []
    assert proof.stored == "float16"
    assert proof.cases.startswith("26 pictures, golden.png, and synthetic")
    assert proof.bundle.click.masks == 3 * (9 + 200)
    assert proof.bundle.everything.masks > 100
    assert proof.control.click.mean_iou < 0.9
    older = json.loads((tiny_bundle / "parity.json").read_text())
    assert {name: report[name] for name in older if name != "mask_head"} == {
        **{name: older[name] for name in older if name != "mask_head"},
        "tolerances": report["tolerances"],
    }


def test_weights_are_stored_once_and_as_float16(masked_bundle, network):
    size = sum((masked_bundle / name).stat().st_size for name in GRAPHS)
    weights = sum(tensor.numel() for tensor in network.parameters())
    assert size < 2 * weights * 1.35


def test_weights_of_another_seed_and_blind_comparisons_fail(network, masked_bundle):
    reference = MaskReference(network, [make_golden_case()])
    torch.manual_seed(99)
    other = reference.compare(TorchMaskGraphs(MaskNetwork(network.config)))
    assert len(list_disagreements(other, BOUNDS)) >= 3
    same = reference.compare(TorchMaskGraphs(network))
    assert list_disagreements(same, BOUNDS) == []
    report = json.loads((masked_bundle / "parity.json").read_text())
    proof = msgspec.convert(report["mask_head"], MaskProof)
    blind = dataclasses.replace(proof, control=proof.bundle)
    assert "proves nothing" in list_mask_failures(blind, BOUNDS)[0]
    nothing = MaskReference(network, []).compare(TorchMaskGraphs(network))
    assert any("no masks of click" in reason for reason in list_disagreements(nothing, BOUNDS))
    broken = dataclasses.replace(same, max_abs_score_diff=float("nan"))
    assert "scores differ" in list_disagreements(broken, BOUNDS)[0]


def test_a_failed_proof_writes_nothing(tiny_bundle, mask_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("URECA_DATA", "nowhere")
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    strict = tmp_path / "strict.yaml"
    strict.write_text("parity_regions: 8\ntolerances: {mask_iou: 1.01}\n")
    command = ["masks", str(mask_checkpoint), "--bundle", str(folder), "--config", str(strict)]
    assert main(command) == 1
    assert "FAILED: masks, bundle: click: mean IoU" in capsys.readouterr().out
    assert contents(folder) == contents(tiny_bundle)
    assert main([*command, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["stored"] == "float32"  # float16 did not pass either
    assert len(printed["failures"]) == 6


# --- the segmenter -------------------------------------------------------------------------------


def test_its_answers_are_those_of_torch(masked_bundle, network, picture):
    ours, own = open_mask_head(masked_bundle), open_segmenter_of(network)
    prompts = [
        SegmenterPrompt(points_xy_px=((60.0, 40.0),)),
        SegmenterPrompt(box_xyxy_px=(20.0, 10.0, 70.0, 80.0)),
    ]
    answers = [s.segment(s.encode(picture), prompts) for s in (ours, own)]
    flat = ([answer for row in rows for answer in row] for rows in answers)
    for one, other in zip(*flat, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-2, rtol=1e-3)
        assert one.score == pytest.approx(other.score, abs=1e-4)
    encoded = ours.encode(picture)
    assert 0 < len(ours.everything(encoded)) <= 64
    assert ours.panoptic(encoded, (90, 120)).ids.shape == (90, 120)


def open_segmenter_of(network):
    from ureca.models.runtime.segmentation.mask_head import MaskHeadSegmenter

    return MaskHeadSegmenter(TorchMaskGraphs(network))


def test_more_rows_than_a_call_takes(masked_bundle, network):
    """64 points, 32 boxes and 128 kernels are one call; the rest goes in further ones."""
    ours, own = open_mask_graphs(masked_bundle), TorchMaskGraphs(network)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(1, 3, 64, 96)).astype(np.float32)
    maps = own.see(pixels)
    points = rng.uniform(0, 64, (150, 2)).astype(np.float32)
    corner = rng.uniform(0, 30, (33, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(1, 30, (33, 2))), 1).astype(np.float32)
    for count, areas in ((150, 33), (64, 0), (0, 32), (65, 1), (0, 0)):
        found = ours.make_kernels(maps, points[:count], boxes[:areas])
        wanted = own.make_kernels(maps, points[:count], boxes[:areas])
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-3)
    kernels = wanted_kernels = own.make_kernels(maps, points, boxes)[0].reshape(-1, 13)
    for count in (450, 128, 129, 1, 0):
        logits = ours.draw(maps, kernels[:count])
        assert logits.shape == (count, 16, 24)
        np.testing.assert_allclose(
            logits, own.draw(maps, wanted_kernels[:count]), atol=1e-2, rtol=1e-3
        )


def test_results_are_not_overwritten_by_later_calls(masked_bundle):
    graphs, rng = open_mask_graphs(masked_bundle), np.random.default_rng(0)
    pixels = rng.normal(size=(2, 1, 3, 64, 96)).astype(np.float32)
    first = graphs.see(pixels[0])
    point, box = np.array([[9, 9]], np.float32), np.array([[1, 2, 30, 40]], np.float32)
    kernels = graphs.make_kernels(first, point, box)
    logits = graphs.draw(first, kernels[2])
    kept = [array.copy() for array in (first.map, first.kernels, *kernels, logits)]
    second = graphs.see(pixels[1])
    graphs.draw(second, graphs.make_kernels(second, point + 5, box + 5)[2])
    for now, before in zip((first.map, first.kernels, *kernels, logits), kept, strict=True):
        np.testing.assert_array_equal(now, before)
    assert np.abs(second.map - first.map).max() > 0.01


@pytest.mark.long
def test_a_trunk_that_does_not_detect_has_no_boxes(tmp_path):
    torch.manual_seed(0)
    small = MaskHeadConfig(trunk="efficientnet-lite0", canvas_px=(64, 96), channels=16)
    network = MaskNetwork(small).eval()
    head = describe_mask_head(network)
    assert head.proposals == 0
    for name, proto in export_mask_graphs(network, opset=20).items():
        save_graph(proto, tmp_path / f"{name}.onnx")
    graphs = OrtMaskGraphs(head, {name: tmp_path / f"{name}.onnx" for name in head.graphs})
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    found, wanted = graphs.see(pixels), TorchMaskGraphs(network).see(pixels)
    assert found.boxes_px.shape == wanted.boxes_px.shape == (0, 4)
    np.testing.assert_allclose(found.kernels, wanted.kernels, atol=1e-3, rtol=1e-3)


# --- what is refused -----------------------------------------------------------------------------


def test_a_bundle_without_a_mask_head_loads_and_says_how_to_get_one(tiny_bundle):
    assert not has_mask_head(load_manifest(tiny_bundle))
    assert "mask_head" not in json.loads((tiny_bundle / "manifest.json").read_text())
    with pytest.raises(WeightsError, match="no mask head: add one with `ureca export masks"):
        open_mask_head(tiny_bundle)


def test_an_altered_graph_is_refused(copy, mask_checkpoint, tiny_checkpoint):
    assert has_mask_head(load_manifest(copy))
    spoilt = bytearray((copy / "prompt.onnx").read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    (copy / "prompt.onnx").write_bytes(bytes(spoilt))
    with pytest.raises(BundleError, match=r"prompt\.onnx was altered"):
        open_mask_head(copy)
    with pytest.raises(BundleError, match=r"prompt\.onnx was altered"):
        main(["masks", str(mask_checkpoint), "--bundle", str(copy)])
    with pytest.raises(BundleError, match=r"prompt\.onnx was altered"):
        export_bundle(tiny_checkpoint, copy, config=ExportConfig(), cases=(), source="")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"canvas_px": [64, 128]}, "other tensors"),
        ({"canvas_px": [64, 100_000]}, "out of range"),
        ({"max_kernels": 0}, "out of range"),
        ({"proposals": 7}, "other tensors"),
        ({"graphs": {}}, "expected"),
    ],
)
def test_a_head_that_this_version_does_not_run_is_refused(copy, change, why):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["mask_head"].update(change)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=why):
        open_mask_head(copy)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(masked_bundle):
    head = load_manifest(masked_bundle).mask_head
    paths = {name: masked_bundle / f"{name}.onnx" for name in head.graphs}
    with pytest.raises(BundleError, match="its manifest says"):
        OrtMaskGraphs(head, {**paths, "prompt": paths["masks"]})


def test_a_folder_that_is_no_head_is_refused(tiny_bundle, tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint of a mask head"):
        main(["masks", str(tmp_path), "--bundle", str(tiny_bundle)])
    with pytest.raises(BundleError, match="expected a bundle"):
        main(["masks", str(tmp_path), "--bundle", str(tmp_path)])


# --- files ---------------------------------------------------------------------------------------


def test_files_that_cannot_be_published_leave_the_bundle_as_it_was(masked_bundle, tmp_path):
    folder, stage = shutil.copytree(masked_bundle, tmp_path / "bundle"), tmp_path / "stage"
    stage.mkdir()
    (stage / "segment.onnx").write_text("new")
    (stage / "more.onnx").write_text("new")
    manifest = load_manifest(folder)
    wrong = FileSpec(file="more.onnx", sha256="0" * 64)
    renewed = msgspec.structs.replace(manifest, extra_files=(*manifest.extra_files, wrong))
    with pytest.raises(BundleError, match="was altered"):
        add_files(stage, folder, renewed)
    assert contents(folder) == contents(masked_bundle)


@pytest.mark.slow
def test_a_later_export_of_the_captioner_keeps_the_head(copy, tiny_checkpoint, capsys):
    before = contents(copy)
    export_bundle(
        tiny_checkpoint,
        copy,
        config=ExportConfig(precision="fp32", parity_regions=4),
        cases=make_synthetic_cases(limit=4),
        source="synthetic",
    )
    after = contents(copy)
    assert {name: after[name] for name in GRAPHS} == {name: before[name] for name in GRAPHS}
    old, new = (json.loads(files["parity.json"])["mask_head"] for files in (before, after))
    assert old == new
    assert open_mask_head(copy).name == "nano"


def test_eval_masks_measures_a_bundle_without_torch(masked_bundle, data, tmp_path):  # noqa: F811
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ureca.models.evaluation.cli import main\n"
        "raise SystemExit(main(sys.argv[1:]))"
    )
    command = ["masks", "--bundle", str(masked_bundle), "--data", str(data), "--json", "--no-tidy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["segmenter"] == "nano"
    assert figures["n"] == 5
    with pytest.raises(ConfigError, match="a bundle has one canvas"):
        open_segmenter(masked_bundle, canvas_px=(64, 64))
