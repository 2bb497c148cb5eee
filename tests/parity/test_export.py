"""The exporter end to end on a tiny checkpoint: files, proof, int8, and exports that must fail."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import json
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

import onnxruntime

from ureca.bundle import load_manifest, verify_files
from ureca.datatypes import RegionInput, RowDone
from ureca.errors import ConfigError, SourceError, WeightsError
from ureca.export.bundle_writer import BundleFiles
from ureca.export.cli import _export_masters, export_bundle, main
from ureca.export.config import ExportConfig, Tolerances
from ureca.export.graphs.interfaces import build_interfaces
from ureca.export.graphs.onnx_export import export_graph
from ureca.export.graphs.quantise import count_int8_products, store_as_f16
from ureca.export.parity.comparison import measure_agreement, run_captions
from ureca.export.parity.parity_checks import (
    ParityProof,
    choose_int8,
    open_graphs,
    read_embedding_table,
)
from ureca.export.parity.parity_inputs import make_synthetic_cases, prepare_arrays
from ureca.export.report import ParityReport
from ureca.models.nano.checkpoint import save_checkpoint
from ureca.models.nano.network import Captioner
from ureca.models.runtime.eager import TorchBackend
from ureca.models.runtime.graph_names import GRAPHS
from ureca.models.runtime.load import load_engine
from ureca.models.tokenizer import train_tokenizer

# The first test waits for the export of the session's bundle, half a minute on an idle machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def masters(tiny_bundle):
    return {name: onnx.load(str(tiny_bundle / f"{name}.onnx")) for name in GRAPHS}


@pytest.fixture(scope="module")
def proof(tiny_model):
    cases = make_synthetic_cases(limit=24, seed=3)
    return ParityProof(
        tiny_model, [prepare_arrays(case, tiny_model.config.vision) for case in cases]
    )


def test_the_bundle_is_whole_and_vouched_for(tiny_bundle):
    manifest = load_manifest(tiny_bundle)
    assert set(verify_files(tiny_bundle, manifest)) == {
        *(f"{name}.onnx" for name in GRAPHS),
        "embeddings.npy",
        "tokenizer.json",
        "parity.json",
        "MODEL_CARD.md",
        "golden.json",
        "golden.png",
    }
    assert set(manifest.graphs) == set(GRAPHS)
    assert {p.name for p in tiny_bundle.iterdir()} == {
        *(spec.file for spec in manifest.files),
        "manifest.json",
    }


def test_float32_graphs_say_exactly_what_torch_says(tiny_export):
    report = tiny_export[1]
    assert report.failures() == []
    assert report.float32.regions == 12
    assert report.float32.max_abs_logit_diff <= 1e-3
    assert report.float32.teacher_forced == report.float32.free_running == 1.0
    assert report.float32.caption_exact == 1.0
    assert report.bundle.caption_exact == 1.0


def test_zero_length_edges_and_the_whole_caption_cache_hold(tiny_export):
    report = tiny_export[1]
    assert report.edges_max_abs_logit_diff <= 1e-3
    assert report.uncached_regions == report.uncached_equal == 12


def test_weights_of_another_seed_are_told_apart(tiny_export):
    control = tiny_export[1].control
    assert control.max_abs_logit_diff > 0.1
    assert control.teacher_forced < 0.9


def test_the_report_travels_with_the_bundle(tiny_bundle):
    report = json.loads((tiny_bundle / "parity.json").read_text())
    assert report["failures"] == []
    assert report["cases"] == "12 regions of 2 pictures, synthetic"
    assert set(report["versions"]) == {"torch", "onnx", "onnxruntime"}


def test_files_and_manifest_tell_the_same_interface(tiny_bundle, tiny_model):
    manifest = load_manifest(tiny_bundle)
    told_of = build_interfaces(tiny_model.config)
    for name, interface in ((name, told_of[name]) for name in GRAPHS):
        session = onnxruntime.InferenceSession(
            str(tiny_bundle / f"{name}.onnx"), providers=["CPUExecutionProvider"]
        )
        told = [(i.name, tuple(i.shape)) for i in session.get_inputs()]
        assert told == [(spec.name, spec.shape) for spec in interface.inputs]
        assert manifest.graphs[name].inputs == interface.inputs
        assert manifest.graphs[name].outputs == interface.outputs


def test_gather_keeps_the_rows_asked_for(masters, tiny_model):
    names = [value.name for value in masters["gather"].graph.input]
    rng = np.random.default_rng(0)
    own = {name: rng.normal(size=(2, 4, 3, 16)).astype(np.float32) for name in names[1:]}
    session = onnxruntime.InferenceSession(
        masters["gather"].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rows = np.array([0, 3], np.int64)
    kept = session.run(None, {"rows": rows, **own})
    for array, result in zip(own.values(), kept, strict=True):
        np.testing.assert_array_equal(result, array[:, rows])


def test_half_storage_is_exact_for_a_published_checkpoint(masters, proof):
    halves = {name: store_as_f16(proto) for name, proto in masters.items()}
    assert halves["vision"].ByteSize() < 0.55 * masters["vision"].ByteSize()
    table = read_embedding_table(proof.model)
    result = proof.compare(open_graphs(halves, table, proof.model.config))
    assert result.max_abs_logit_diff <= 1e-3
    assert result.caption_exact == 1.0


def test_int8_ships_only_where_it_agrees(masters, proof, tiny_checkpoint, tmp_path):
    table = read_embedding_table(proof.model)
    graphs, trials = choose_int8(proof, masters, table, minimum=0.0)
    layers = proof.model.config.language.layers
    assert count_int8_products(graphs["lm"]) == 4 * layers + 1
    assert count_int8_products(graphs["regions"]) > 0
    assert count_int8_products(graphs["vision"]) == 0
    assert set(trials) == {"lm s7", "regions s7"}
    agreed = {name: trial.agreement.teacher_forced for name, trial in trials.items()}
    assert min(agreed.values()) > 0.8, agreed
    kept, refused = choose_int8(proof, masters, table, minimum=1.01)
    assert len(refused) == 4
    assert not any(trial.chosen for trial in refused.values())
    assert count_int8_products(kept["lm"]) == 0
    _write_and_run(graphs, proof, tiny_checkpoint, tmp_path)


def _write_and_run(graphs, proof, checkpoint, folder):
    """The int8 bundle as a node would load it."""
    stage, out = folder / "stage", folder / "out"
    stage.mkdir()
    out.mkdir()
    files = BundleFiles(stage, graphs, checkpoint=checkpoint, config=ExportConfig())
    manifest = files.write(proof.model)
    files.publish(manifest, _report(proof), out)
    engine = load_engine(out, threads=1)
    assert engine.info.precision == "fp32/int8"
    case = make_synthetic_cases(limit=3)[0]
    stream = engine.caption(engine.encode(case.image), [RegionInput(m) for m in case.masks])
    assert sum(isinstance(event, RowDone) for event in stream) == 3


def _report(proof, **changes):
    same = measure_agreement(proof.reference, proof.reference)
    fields = {
        "checkpoint_sha256": "0" * 64,
        "opset": 24,
        "versions": {},
        "cases": "test",
        "tolerances": Tolerances(),
        "float32": same,
        "edges_max_abs_logit_diff": 0.0,
        "uncached_regions": 1,
        "uncached_equal": 1,
        "control": replace(same, teacher_forced=0.0),
        "bundle": same,
        "alone_exact": 1.0,
    }
    return ParityReport(**{**fields, **changes})


def test_a_failed_proof_leaves_the_old_bundle_and_says_why(
    proof, tiny_checkpoint, masters, tmp_path
):
    stage, out = tmp_path / "stage", tmp_path / "out"
    stage.mkdir()
    out.mkdir()
    (out / "manifest.json").write_text("old")
    files = BundleFiles(stage, masters, checkpoint=tiny_checkpoint, config=ExportConfig())
    manifest = files.write(proof.model)
    bad = _report(proof, edges_max_abs_logit_diff=float("nan"), uncached_equal=0)
    files.publish(manifest, bad, out)
    assert (out / "manifest.json").read_text() == "old"
    failed = json.loads((out / "parity.failed.json").read_text())
    assert len(failed["failures"]) == 2


@pytest.mark.long
def test_another_export_into_the_same_folder_leaves_nothing_of_the_old_one(
    tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("URECA_DATA", "nowhere")
    args = [str(tiny_checkpoint), "-o", str(tmp_path), "--precision", "fp32"]
    assert main([*args, "--static-cache"]) == 0
    (tmp_path / "notes.txt").write_text("not the exporter's")
    assert main(args) == 0
    vouched = {spec.file for spec in load_manifest(tmp_path).files}
    assert "lm_static.onnx" not in vouched
    assert {path.name for path in tmp_path.iterdir()} == {*vouched, "manifest.json", "notes.txt"}


@pytest.mark.parametrize(
    "change",
    [
        {"uncached_equal": 0},
        {"edges_max_abs_logit_diff": 1.0},
        {"edges_max_abs_logit_diff": float("nan")},
    ],
)
def test_each_bound_can_fail_an_export(proof, change):
    assert len(_report(proof, **change).failures()) == 1
    assert "FAILED" in _report(proof, **change).table()


def test_a_comparison_that_sees_nothing_fails(proof):
    same = measure_agreement(proof.reference, proof.reference)
    assert "proves nothing" in _report(proof, control=same).failures()[0]
    worse = replace(same, teacher_forced=0.9)
    assert len(_report(proof, bundle=worse, float32=worse).failures()) == 2


@pytest.mark.long
def test_tiles_can_stay_dynamic(tiny_model):
    """With more than one tile T, P and K are free; only `vision` is traced: the quickest."""
    config = tiny_model.config
    vision = replace(config.vision, max_tiles=4)
    model = Captioner(replace(config, vision=vision)).eval()
    proto = export_graph(model, "vision", opset=ExportConfig().opset)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = torch.randn(5, 3, 64, 64)
    tokens = session.run(["image_tokens"], {"pixel_values": pixels.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(tokens, model.vision(pixels)[0].numpy(), atol=1e-4)


def test_listening_to_the_same_network_twice_agrees(proof):
    again = [
        run_captions(TorchBackend(proof.model), arrays, max_new=proof.max_new)
        for arrays in proof.arrays
    ]
    same = measure_agreement(proof.reference, again)
    assert (same.max_abs_logit_diff, same.teacher_forced, same.caption_exact) == (0.0, 1.0, 1.0)


def test_a_tokenizer_of_another_run_is_refused(tiny_model, tmp_path):
    letters = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    big = train_tokenizer(letters, 2000)
    assert big.vocab_size > 512
    big.save(tmp_path / "big.json")
    json_text = (tmp_path / "big.json").read_text(encoding="utf8")
    save_checkpoint(tmp_path, tiny_model, tokenizer_json=json_text)
    with pytest.raises(WeightsError, match="same training run"):
        export_bundle(tmp_path, tmp_path / "out", config=ExportConfig(), cases=(), source="")


def test_regions_and_images_go_together(tiny_checkpoint, tmp_path):
    arguments = [str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--regions", "r.jsonl"]
    with pytest.raises(SourceError, match="go together"):
        main(arguments)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="not a checkpoint"):
        export_bundle(tmp_path, tmp_path / "out", config=ExportConfig(), cases=(), source="")


@pytest.fixture
def _full_disk():
    """No file may grow beyond a megabyte, as on a disk that is almost full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("tiny_bundle", "_full_disk")
def test_a_full_disk_leaves_no_bundle_and_a_remedy(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="Free some space"):
        main([str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--precision", "fp32"])
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # the stage is cleared away


def test_another_configuration_is_another_graph(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """The same weights with longer captions must not be answered from the cache."""
    keys = set()
    monkeypatch.setattr(
        "ureca.export.cli.load_or_make_graph",
        lambda name, make, *, checkpoint_sha256, opset: keys.add((name, checkpoint_sha256, opset)),
    )
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["language"]["max_new_tokens"] += 8
    (other / "config.json").write_text(json.dumps(config))
    for folder in (tiny_checkpoint, other):
        _export_masters(tiny_model, folder, ExportConfig(), lambda _: None)
    assert len(keys) == 2 * len(GRAPHS)
