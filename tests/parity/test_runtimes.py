"""The other runtimes against eager torch. What has no device here runs on its stand-ins."""
# ruff: noqa: E402  (imports follow the checks for their extras)

import gc
import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference engine needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

from tests.parity.fake_nvidia import Driver, tensorrt
from ureca.bundle import load_manifest, write_manifest
from ureca.datatypes import RegionInput, RowDone
from ureca.errors import BundleError, ConfigError, EngineError
from ureca.export.cli import main
from ureca.models.runtime.cuda import CudaDevice, find_compute_capability
from ureca.models.runtime.eager import make_eager_engine
from ureca.models.runtime.graph_names import LM
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.shape_ranges import build_profiles
from ureca.models.tokenizer import Tokenizer

pytestmark = pytest.mark.timeout(900)


def said(engine, picture, regions):
    stream = engine.caption(engine.encode(picture), regions)
    return {end.row: (end.text, end.stop) for end in stream if isinstance(end, RowDone)}


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_bundle):
    return make_eager_engine(tiny_model, Tokenizer.load(tiny_bundle / "tokenizer.json"))


@pytest.fixture
def rewritten(tiny_bundle, tmp_path):
    """A function that copies the bundle with another manifest."""

    def copy(**changes):
        folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        write_manifest(folder, msgspec.structs.replace(load_manifest(folder), **changes))
        return folder

    return copy


@pytest.fixture
def nvidia(monkeypatch):
    """A Jetson with TensorRT 10, as far as this process can tell."""
    driver = Driver()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(driver))
    return driver


def test_values_stay_bound_to_their_device(rewritten, tiny_bundle, reference, picture, regions):
    """The path of ONNX Runtime's CUDA provider, on the CPU: IO binding, buckets, dropped rows."""
    limits = msgspec.structs.replace(load_manifest(tiny_bundle).limits, buckets=(1, 2, 4, 8, 32))
    engine = load_engine(rewritten(runtime="ort-gpu", target="cpu", limits=limits), threads=1)
    assert said(engine, picture, regions) == said(reference, picture, regions)
    varied = [
        RegionInput(r.mask, style=r.style, max_new_tokens=n)
        for r, n in zip(regions, (2, 8, 3, 8, 2), strict=True)
    ]
    assert said(engine, picture, varied) == said(reference, picture, varied)


def test_a_provider_that_is_not_here_is_refused_with_the_remedy(rewritten):
    with pytest.raises(BundleError, match=r"needs CUDAExecutionProvider.*pip install.*gpu"):
        load_engine(rewritten(runtime="ort-gpu", target="cuda"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "ort-gpu", "target": "tpu"}, "ort-gpu .* on tpu; .*--runtime auto"),
        ({"runtime": "aoti", "runtime_version": "1.0"}, r"aoti 1\.0 on any.*ureca export"),
        ({"runtime": "tensorrt", "target": "sm_87"}, r"not here.*ureca\[tensorrt\].*ureca export"),
        ({"runtime": "invented"}, "expected a runtime of .*ureca export"),
    ],
)
def test_a_bundle_of_elsewhere_is_refused_with_the_command_that_repairs_it(
    rewritten, changes, message
):
    with pytest.raises(BundleError, match=message):
        load_engine(rewritten(**changes))


@pytest.fixture(scope="module")
def planned(tiny_bundle, tiny_checkpoint, tmp_path_factory):
    """A bundle of plans that `--runtime auto` made on the stand-in, and what it printed.

    After `tiny_bundle`, whose graphs are in the cache then.
    """
    out = tmp_path_factory.mktemp("plans") / "bundle"
    driver = Driver()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setitem(sys.modules, "cuda.bindings.driver", driver)
        patch.setitem(sys.modules, "tensorrt", tensorrt(driver))
        patch.setenv("URECA_DATA", "nowhere")
        code = main([str(tiny_checkpoint), "-o", str(out), "--runtime", "auto"])
    return out, printed.getvalue(), code


def test_auto_says_what_it_chose_and_why(planned):
    out, printed, code = planned
    assert code == 0, printed
    assert (
        "runtime tensorrt, fp16, for sm_87: a CUDA device (sm_87) and tensorrt are here" in printed
    )
    manifest = load_manifest(out)
    assert (manifest.runtime, manifest.target, manifest.runtime_version) == (
        "tensorrt",
        "sm_87",
        "10.3.0",
    )
    assert {graph.file for graph in manifest.graphs.values()} == {
        "vision.plan",
        "regions.plan",
        "lm.plan",
        "gather.plan",
    }
    assert manifest.limits.buckets == (1, 2, 4, 8, 16, 32)
    assert {manifest.graphs[name].precision for name in ("vision", "regions", "lm")} == {"fp16"}
    report = json.loads((out / "parity.json").read_text())
    assert report["not_proven"] == {}
    assert report["bundle"]["teacher_forced"] >= 0.98


def test_plans_caption_and_free_what_they_allocate(planned, nvidia, reference, picture, regions):
    engine = load_engine(planned[0])
    assert engine.info.runtime == "tensorrt 10.3.0"
    ours, theirs = said(engine, picture, regions), said(reference, picture, regions)
    assert len(ours) == 5
    assert sum(ours[row] == theirs[row] for row in ours) >= 4  # float16 may flip a near tie
    gc.collect()
    kept = len(nvidia.live)
    said(engine, picture, regions)
    gc.collect()
    assert len(nvidia.live) == kept


def test_a_plan_refuses_what_no_profile_takes(planned, nvidia):
    backend = load_engine(planned[0])._backend
    frame = backend.prefill(backend.encode(np.zeros((1, 3, 64, 64), np.float32)))
    with pytest.raises(EngineError, match=r"'lm' takes inputs within .*--max-regions"):
        backend.step(frame, np.zeros((4, 500, 32), np.float32), None)
    with pytest.raises(EngineError, match="expects rows as int64, got int32"):
        backend._runner.run(
            "gather", [], {"rows": backend._put(np.zeros(1, np.int32)), **_own(backend)}
        )


def _own(backend):
    return backend._make_empty(backend._names.own)


def test_another_device_or_version_is_refused(planned, nvidia, monkeypatch):
    nvidia.capability = (8, 9)
    with pytest.raises(BundleError, match=r"tensorrt 10\.3\.0 on sm_89.*--runtime auto"):
        load_engine(planned[0])
    nvidia.capability = (8, 7)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(nvidia, version="11.4.0"))
    with pytest.raises(BundleError, match=r"has tensorrt 11\.4\.0 on sm_87.*--runtime tensorrt"):
        load_engine(planned[0])


def test_without_a_device_the_reason_is_told():
    assert find_compute_capability(Driver(devices=0)) == (None, "the driver found no CUDA device")
    with pytest.raises(EngineError, match="expected a CUDA device"):
        CudaDevice(Driver(devices=0))


def test_a_kept_buffer_takes_only_what_fits():
    device = CudaDevice(Driver())
    kept = device.upload(np.zeros((2, 3), np.float32))
    device.refill(kept, np.arange(6, dtype=np.float32).reshape(2, 3))
    device.refill(kept, kept.numpy() + 1)  # the page-locked memory is used again
    assert kept.numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(EngineError, match=r"expected float32 \(2, 3\).*int64"):
        device.refill(kept, np.zeros((2, 3), np.int64))


def test_each_bucket_has_a_profile_of_its_own(tiny_model):
    limits = {"max_regions": 8, "buckets": (1, 2, 8)}
    prefix, *rest = build_profiles(LM, tiny_model.config, **limits)
    assert prefix["P"] == (0, 0, 0)
    assert [ranges["N"] for ranges in rest] == [(1, 1, 1), (2, 2, 2), (8, 8, 8)]
    assert len(build_profiles("gather", tiny_model.config, **limits)) == 1


def test_tensorrt_without_a_device_is_refused_before_any_work(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="builds on the device that it builds for"):
        main([str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--runtime", "tensorrt"])
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="there is no C++ compiler: AOTInductor is NOT PROVEN here",
)
def test_aotinductor_says_what_torch_says(
    tiny_checkpoint, tmp_path, reference, picture, regions, monkeypatch, capsys
):
    """Three C++ compilations, then the same proof as every export."""
    monkeypatch.setenv("URECA_DATA", "nowhere")
    out = tmp_path / "bundle"
    assert main([str(tiny_checkpoint), "-o", str(out), "--runtime", "aoti"]) == 0
    assert "runtime aoti, fp32" in capsys.readouterr().out
    report = json.loads((out / "parity.json").read_text())
    assert report["bundle"]["max_abs_logit_diff"] <= 1e-3
    assert report["bundle"]["caption_exact"] == report["alone_exact"] == 1.0
    engine = load_engine(out, threads=1)
    assert said(engine, picture, regions) == said(reference, picture, regions)
    with pytest.raises(EngineError, match="expects pixel_values as float32"):
        engine._backend.encode(np.zeros((1, 3, 32, 64), np.float32))
