"""Decoding in caches of fixed length: by ONNX Runtime, and by plans of the stand-in as CUDA graphs.

ONNX Runtime is the real thing on the CPU; the stand-in checks addresses, lifetimes and the order of
calls. No device has run it.
"""
# ruff: noqa: E402  (imports follow the checks for their extras)

import gc
import shutil
import sys

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference engine needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

import onnxruntime

from tests.once import build_once
from tests.parity.fake_nvidia import Driver, tensorrt
from ureca.bundle import load_manifest, write_manifest
from ureca.datatypes import RegionInput, RowDone
from ureca.errors import EngineError
from ureca.export.cli import export_bundle
from ureca.export.config import ExportConfig
from ureca.export.parity.parity_inputs import make_synthetic_cases
from ureca.models.runtime.cuda import CudaDevice
from ureca.models.runtime.eager import make_eager_engine
from ureca.models.runtime.gpu.static_backend import StaticBackend
from ureca.models.runtime.graph_names import LM_STATIC
from ureca.models.runtime.load import load_engine
from ureca.models.tokenizer import Tokenizer

_VERSION = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
pytestmark = [
    pytest.mark.long,  # two exports
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        _VERSION < (1, 24),
        reason=f"lm_static is NOT PROVEN: ONNX Runtime {onnxruntime.__version__} has no opset 24",
    ),
]


def said(engine, picture, regions):
    stream = engine.caption(engine.encode(picture), regions)
    return {end.row: (end.text, end.stop) for end in stream if isinstance(end, RowDone)}


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_checkpoint):
    return make_eager_engine(tiny_model, Tokenizer.load(tiny_checkpoint / "tokenizer.json"))


def _export(checkpoint, out, **options):
    with pytest.MonkeyPatch.context() as patch:
        driver = Driver()
        patch.setitem(sys.modules, "cuda.bindings.driver", driver)
        patch.setitem(sys.modules, "tensorrt", tensorrt(driver))
        report = export_bundle(
            checkpoint,
            out,
            config=ExportConfig(precision="fp32", static_cache=True, parity_regions=4, **options),
            cases=make_synthetic_cases(limit=4),
            source="synthetic",
        )
    assert report.failures() == []


@pytest.fixture(scope="module")
def bound(scoring_checkpoint, tmp_path_factory):
    """A bundle for ONNX Runtime's IO binding, with `lm_static` and `score`, on the CPU."""
    options = {"runtime": "ort-gpu", "target": "cpu"}
    return build_once(
        tmp_path_factory, "static-ort", lambda out: _export(scoring_checkpoint, out, **options)
    )


@pytest.fixture(scope="module")
def planned(bound, scoring_checkpoint, tmp_path_factory):
    """Plans of the stand-in, after `bound`, whose graphs are in the cache then."""
    return build_once(
        tmp_path_factory,
        "static-plans",
        lambda out: _export(scoring_checkpoint, out, runtime="tensorrt"),
    )


@pytest.fixture
def nvidia(monkeypatch):
    """A Jetson with TensorRT 10, as far as this process can tell."""
    driver = Driver()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(driver))
    return driver


def _varied(regions):
    return [
        RegionInput(r.mask, style=r.style, max_new_tokens=n)
        for r, n in zip(regions, (2, 8, 3, 8, 2), strict=True)
    ]


def test_onnx_runtime_captions_in_place_as_torch_does(bound, reference, picture, regions):
    engine = load_engine(bound, threads=1)
    assert isinstance(engine._backend, StaticBackend)
    other = np.ascontiguousarray(picture[::-1])
    for frame, asked in ((picture, regions), (other, _varied(regions)), (picture, regions[:1])):
        assert said(engine, frame, asked) == said(reference, frame, asked)


def test_batches_may_be_interleaved(bound, reference, picture, regions):
    """Each has caches of its own, and its own picture's prefix."""
    engine = load_engine(bound, threads=1)
    frames = [picture, np.ascontiguousarray(picture[:, ::-1])]
    streams = [engine.caption(engine.encode(frame), regions) for frame in frames]
    heard = [{}, {}]
    while streams[0] is not None or streams[1] is not None:
        for number, stream in enumerate(streams):
            event = next(stream, None) if stream is not None else None
            if isinstance(event, RowDone):
                heard[number][event.row] = (event.text, event.stop)
            streams[number] = stream if event is not None else None
    assert heard == [said(reference, frame, regions) for frame in frames]


def test_ended_batches_give_their_caches_back(bound, picture, regions):
    engine = load_engine(bound, threads=1)
    for _ in range(3):
        said(engine, picture, regions)
        gc.collect()
    sets = engine._backend._sets
    assert sets[8]
    assert all(len(each) == 1 for each in sets.values())


def test_more_positions_than_slots_are_refused(bound, picture):
    backend = load_engine(bound, threads=1)._backend
    frame = backend.prefill(backend.encode(np.zeros((1, 3, 64, 64), np.float32)))
    with pytest.raises(EngineError, match=r"at most .* positions of a region, got 500"):
        backend.step(frame, np.zeros((1, 500, 32), np.float32), None)


def test_plans_replay_their_steps_as_cuda_graphs(planned, nvidia, reference, picture, regions):
    engine = load_engine(planned)
    assert LM_STATIC in load_manifest(planned).graphs
    expected = said(reference, picture, regions)
    for _ in range(3):
        assert said(engine, picture, regions) == expected
    launched = nvidia.launches
    assert said(engine, picture, regions) == expected
    steps = nvidia.launches - launched
    assert steps >= 3  # the prompt's pass and every token
    other = np.ascontiguousarray(picture[::-1])
    assert said(engine, other, regions) == said(reference, other, regions)


def test_replaying_allocates_nothing_that_stays(planned, nvidia, picture, regions):
    engine = load_engine(planned)
    counts = []
    for _ in range(5):
        said(engine, picture, regions)
        gc.collect()
        counts.append((len(nvidia.live), len(nvidia.pinned), len(nvidia.graphs)))
    assert counts[-1] == counts[-2] == counts[-3]
    assert counts[-1][2] >= 2
    del engine
    gc.collect()
    assert not nvidia.graphs
    assert not nvidia.pinned


def test_a_device_that_cannot_record_runs_the_plans_as_before(
    planned, nvidia, reference, picture, regions, caplog
):
    nvidia.cuStreamEndCapture = lambda stream: (setattr(nvidia, "recording", None), 900, None)[1:]
    engine = load_engine(planned)
    for _ in range(3):
        assert said(engine, picture, regions) == said(reference, picture, regions)
    assert nvidia.launches == 0
    assert "runs without CUDA graphs" in caplog.text


def test_a_driver_without_graphs_is_not_asked_for_them(planned, picture, monkeypatch, reference):
    class Old(Driver):
        cuGraphLaunch = property()  # noqa: N815  (the driver's own name)

    driver = Old()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(driver))
    assert not CudaDevice(driver).can_record
    regions = [RegionInput(np.ones((90, 120), np.bool_))]
    engine = load_engine(planned)
    for _ in range(3):
        assert said(engine, picture, regions) == said(reference, picture, regions)
    assert not driver.graphs


def test_texts_are_scored_beside_the_static_cache(bound, tmp_path, picture, regions):
    """After caches of their own length."""
    plain = shutil.copytree(bound, tmp_path / "plain")
    manifest = load_manifest(plain)
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != LM_STATIC}
    write_manifest(plain, msgspec.structs.replace(manifest, graphs=graphs))
    static, grown = (load_engine(folder, threads=1) for folder in (bound, plain))
    assert isinstance(static._backend, StaticBackend)
    assert not isinstance(grown._backend, StaticBackend)
    for engine in (static, grown):
        said(engine, picture, regions)
    tokens = np.random.default_rng(2).normal(size=(3, 4, 32)).astype(np.float32)
    ids = np.array([[5, 6, 7], [8, 9, 3], [4, 4, 3]])
    told = []
    for backend in (static._backend, grown._backend):
        frame = backend.prefill(backend.encode(np.ones((1, 3, 64, 64), np.float32)))
        own = backend.keep(backend.read(frame, tokens), np.array([2, 0, 1]))
        told.append(backend.score(frame, backend.embed(ids), ids, own))
    np.testing.assert_allclose(told[0], told[1], atol=1e-5)
