"""Level 3 of the proof ladder: every GPU runtime that is installed, on the device that is there."""

import json

import pytest

pytest.importorskip("torch", reason="exporting needs the extra `export`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `export`")

from ureca.export.cli import main
from ureca.export.runtime_selection import GPU, Machine
from ureca.models.runtime.load import load_engine

NEEDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "ort-gpu": "onnxruntime-gpu"}


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("runtime", GPU)
def test_the_engine_on_the_device_says_what_torch_says(
    runtime, precision, tiny_checkpoint, tmp_path, monkeypatch
):
    machine = Machine.inspect()
    if machine.device is None or NEEDS[runtime] not in machine.packages:
        missing = machine.no_device or f"{NEEDS[runtime]} is not installed"
        pytest.skip(f"{missing}: execution by {runtime} is NOT PROVEN here")
    monkeypatch.setenv("URECA_DATA", "nowhere")
    out = tmp_path / "bundle"
    arguments = [str(tiny_checkpoint), "-o", str(out), "--runtime", runtime]
    assert main([*arguments, "--precision", precision]) == 0
    report = json.loads((out / "parity.json").read_text())
    assert report["not_proven"] == {}
    assert report["bundle"]["teacher_forced"] >= (0.999 if precision == "fp32" else 0.98)
    assert load_engine(out).info.runtime.startswith(runtime)
