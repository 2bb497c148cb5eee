"""The shipped runtime against eager torch on a tiny bundle: words, streams, limits, refusals."""

import json
import shutil
import subprocess
import sys

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference engine needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

from ureca.bundle import file_spec, load_manifest, write_manifest
from ureca.datatypes import RegionInput, RowDelta, RowDone
from ureca.errors import BundleError, EngineError
from ureca.models.runtime.eager import make_eager_engine
from ureca.models.runtime.graph_names import LmNames
from ureca.models.runtime.load import load_engine
from ureca.models.tokenizer import LONG_ID, Tokenizer

# The first test waits for the export of the session's bundle, half a minute on an idle machine.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return load_engine(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_bundle):
    return make_eager_engine(tiny_model, Tokenizer.load(tiny_bundle / "tokenizer.json"))


@pytest.fixture
def copied(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def ends(stream):
    return {event.row: event for event in stream if isinstance(event, RowDone)}


def both(engine, reference, picture, regions, **options):
    ours = ends(engine.caption(engine.encode(picture), regions, **options))
    theirs = ends(reference.caption(reference.encode(picture), regions, **options))
    return ours, theirs


def test_captions_and_scores_equal_torch(engine, reference, picture, regions):
    ours, theirs = both(engine, reference, picture, regions)
    assert {row: (d.text, d.n_tok, d.stop) for row, d in ours.items()} == {
        row: (d.text, d.n_tok, d.stop) for row, d in theirs.items()
    }
    for row, done in ours.items():
        assert done.score == pytest.approx(theirs[row].score, rel=1e-3)
    assert len({done.text for done in ours.values()}) > 1


def test_dropping_rows_in_the_middle_changes_nothing_for_the_rest(
    engine, reference, picture, regions
):
    lengths = [2, 8, 3, 8, 2]
    varied = [
        RegionInput(r.mask, style=r.style, max_new_tokens=n)
        for r, n in zip(regions, lengths, strict=True)
    ]
    whole, _ = both(engine, reference, picture, regions)
    ours, theirs = both(engine, reference, picture, varied)
    assert {row: d.text for row, d in ours.items()} == {row: d.text for row, d in theirs.items()}
    for row in (1, 3):
        assert ours[row].text == whole[row].text


def test_deltas_arrive_before_the_end_and_join_to_the_text(engine, picture, regions):
    events = list(engine.caption(engine.encode(picture), regions))
    done = ends(events)
    assert set(done) == set(range(5))
    for row, end in done.items():
        deltas = [e for e in events if isinstance(e, RowDelta) and e.row == row]
        assert "".join(d.text for d in deltas) == end.text
    first_end = next(i for i, e in enumerate(events) if isinstance(e, RowDone))
    assert any(isinstance(e, RowDelta) for e in events[:first_end])


def test_aborted_rows_end_and_the_others_go_on(engine, picture, regions):
    frame = engine.encode(picture)
    plain = ends(engine.caption(frame, regions))
    done = ends(engine.caption(frame, regions, aborted=lambda row: row in (0, 2, 3)))
    assert [done[row].stop for row in (0, 2, 3)] == ["aborted"] * 3
    assert [done[row].text for row in (1, 4)] == [plain[row].text for row in (1, 4)]


def test_one_encoded_frame_serves_many_calls(engine, picture, regions):
    frame = engine.encode(picture)
    first, second = (ends(engine.caption(frame, regions)) for _ in range(2))
    assert {r: d.text for r, d in first.items()} == {r: d.text for r, d in second.items()}


def test_rows_with_numbers_that_are_not_finite_end_alone(engine, copied, picture, regions):
    manifest = load_manifest(copied)
    table = np.load(copied / "embeddings.npy")
    table[LONG_ID] = np.nan
    np.save(copied / "embeddings.npy", table)
    spec = file_spec(copied, "embeddings.npy")
    write_manifest(copied, msgspec.structs.replace(manifest, embeddings=spec))
    broken = load_engine(copied, threads=1)
    plain = ends(engine.caption(engine.encode(picture), regions))
    done = ends(broken.caption(broken.encode(picture), regions))
    assert [done[row].stop for row in (1, 3)] == ["non_finite"] * 2
    # (An untrained model may say `<long>` itself and end there; what it said before is the same.)
    assert all(plain[row].text.startswith(done[row].text) for row in (0, 2, 4))
    assert any(done[row].stop in {"eos", "length"} for row in (0, 2, 4))


def test_limits_and_identity_come_from_the_manifest(engine, tiny_bundle, picture, regions):
    info = engine.info
    assert (info.model, info.precision, info.max_new_tokens) == ("ureca-tiny", "fp32", 8)
    assert len(info.bundle_sha) == 64
    assert info.runtime.startswith("onnxruntime ")
    with pytest.raises(EngineError, match="at most 32"):
        engine.caption(engine.encode(picture), regions * 7)


def test_a_call_beyond_the_position_table_is_a_typed_error(engine, picture):
    frame = engine.encode(picture)
    backend = engine._backend
    x = np.zeros((1, 500, 32), np.float32)
    with pytest.raises(EngineError, match=r"'lm' failed on inputs .*500"):
        backend.step(frame.inner, x, None)


@pytest.mark.parametrize(
    "name", ["lm.onnx", "vision.onnx", "embeddings.npy", "tokenizer.json", "parity.json"]
)
def test_an_altered_file_is_refused_with_the_remedy(copied, name):
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=rf"{name} was altered.*ureca export"):
        load_engine(copied)


@pytest.mark.parametrize("name", ["lm.onnx", "manifest.json", "embeddings.npy"])
def test_a_missing_file_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_engine(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "x", "invented": 1}}, "does not fit this version.*invented"),
        ({"tokens": {"pad": 0, "short": 2, "long": 1, "eos": 3}}, "expected pad, short, long"),
        ({"graphs": {}}, "lacks the graphs"),
        ({"model": {"language": {"vocab_size": 9}}}, "embeddings are"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied, change, message):
    path = copied / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf8")
    with pytest.raises(BundleError, match=message):
        load_engine(copied)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"not a graph", "is no ONNX file"), (b"", "is no ONNX file"), (b"\x08\x0a", "cannot open")],
)
def test_a_graph_that_is_not_onnx_is_refused(copied, content, told):
    (copied / "gather.onnx").write_bytes(content)
    manifest = load_manifest(copied)
    graph = msgspec.structs.replace(
        manifest.graphs["gather"], sha256=file_spec(copied, "gather.onnx").sha256
    )
    graphs = {**manifest.graphs, "gather": graph}
    write_manifest(copied, msgspec.structs.replace(manifest, graphs=graphs))
    with pytest.raises(BundleError, match=told):
        load_engine(copied)


def test_the_node_path_runs_without_torch(tiny_bundle):
    """Load, caption and bench in a process of its own; torch is installed and must stay out."""
    code = (
        "import sys\n"
        "from ureca.models.bench.cli import main\n"
        f"code = main(['engine', '--bundle', {str(tiny_bundle)!r}, '--regions', '1,2', "
        "'--frames', '1', '--threads', '1'])\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert [row["regions"] for row in report["rows"]] == [1, 1, 2, 2]
    assert all(row["ms_median"] > 0 for row in report["rows"])


def test_names_of_keys_come_before_names_of_values():
    names = LmNames.of(2)
    assert names.own == ("own_k_0", "own_k_1", "own_v_0", "own_v_1")
    assert len(set(names.prefix + names.own + names.grown)) == 12
