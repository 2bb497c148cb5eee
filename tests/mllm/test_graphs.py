"""Full-size captioners as graphs: how weights are stored, and the whole path of every family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from bases import other_base
from onnx import helper
from smol_worlds import llama, nano
from worlds import internvl_base, picture, tiny_config

from ureca import cli
from ureca.bundle import TensorSpec, load_manifest
from ureca.export.graphs.interfaces import Interface
from ureca.export.language_model.precision import GraphWriter
from ureca.export.language_model.stand_ins import make_skeleton
from ureca.export.language_model.stitch import Sketch, Weight
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.checkpoints.compose import join_models
from ureca.models.mllm.checkpoints.wrap import wrap_base
from ureca.models.mllm.config import LoraConfig, MaskConfig, PictureConfig
from ureca.models.mllm.network.families import FAMILIES, NANO_LM
from ureca.models.mllm.network.lora import add_lora


def product(weight):
    """x @ weight as a sketch, the weight as a linear layer holds it."""
    rows, columns = weight.shape
    face = Interface(
        (TensorSpec(name="x", dtype="float32", shape=("N", rows)),),
        (TensorSpec(name="y", dtype="float32", shape=("N", columns)),),
    )
    turn = helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0])
    sketch = Sketch(face, nodes=[turn, helper.make_node("MatMul", ["x", "wt"], ["y"])])
    sketch.weights["w"] = Weight(weight.T.shape, lambda: np.ascontiguousarray(weight.T))
    sketch.absorb_transposes()
    return sketch


@pytest.mark.parametrize(
    ("kind", "error", "share"),
    [("fp32", 1e-6, 1.0), ("fp16", 1e-3, 0.5), ("int8", 0.02, 0.3), ("int4", 0.15, 0.17)],
)
def test_a_product_in_every_precision_is_near_and_as_small_as_it_should_be(
    tmp_path, kind, error, share
):
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(96, 80)).astype(np.float32)
    writer = GraphWriter(product(weight), kind, opset=20)
    graph, data = writer.write(tmp_path, "lm")
    x = draw.normal(size=(5, 96)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / graph))
    y = session.run(["y"], {"x": x})[0]
    exact = x @ weight
    assert np.abs(y - exact).mean() / np.abs(exact).mean() < error
    assert (tmp_path / data).stat().st_size <= share * weight.nbytes + 256
    wrong = x @ np.roll(weight, 1, axis=1)
    assert np.abs(y - wrong).mean() / np.abs(exact).mean() > 1


def test_weights_are_read_one_after_the_other(tmp_path):
    """A graph of many weights needs the memory of one."""
    alive, most = [0], [0]

    def forget():
        alive[0] -= 1

    def read():
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        made = np.ones((64, 64), np.float32)
        weakref.finalize(made, forget)
        return made

    face = Interface(*((TensorSpec(name=n, dtype="float32", shape=("N", 64)),) for n in "xy"))
    sketch = Sketch(face)
    for number in range(8):
        sketch.weights[f"w{number}"] = Weight((64, 64), read)
        names = ["x" if number == 0 else f"x{number}", "y" if number == 7 else f"x{number + 1}"]
        sketch.nodes.append(helper.make_node("MatMul", [names[0], f"w{number}"], names[1:]))
    GraphWriter(sketch, "fp32", opset=20).write(tmp_path, "lm")
    assert most[0] == 1


def test_a_skeleton_has_the_shapes_of_a_model_and_reads_its_weights_merged(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint)
    add_lora(model.language, LoraConfig(rank=4, alpha=8.0))
    adapter = model.language.layers[0].self_attn.q_proj
    with torch.no_grad():
        adapter.lora_B.normal_()
    skeleton = make_skeleton(model)
    kept = sum(p.untyped_storage().nbytes() for p in skeleton.model.parameters())
    assert kept == 4 * len(list(skeleton.model.parameters()))
    read = dict(skeleton.list_weights(skeleton.model.language.layers[0]))
    merged = adapter.base.weight + adapter.scale * (adapter.lora_B @ adapter.lora_A)
    np.testing.assert_allclose(
        read["self_attn.q_proj.weight"](), merged.detach().numpy(), rtol=1e-5, atol=1e-6
    )
    names = {n.replace(".base.", ".") for n, _ in model.language.layers[0].named_parameters()}
    assert set(read) == {n for n in names if "lora_" not in n}


# --- the whole path ------------------------------------------------------------------------------

FAMILY_NAMES = (*("internvl", "llava_onevision", "smolvlm", "idefics3", NANO_LM),)


def make_checkpoint(kind, folder):
    """A random checkpoint of a family, of the package's own classes."""
    if kind == "internvl":
        return wrap_base(internvl_base(folder / "base"), folder / "checkpoint", tiny_config())
    if kind == NANO_LM:
        parts = {"language": llama(folder / "llama"), "nano": nano(folder / "nano")}
        base = join_models(folder / "base", **parts)
        config = tiny_config(
            name="ureca-smol-tiny",
            picture=PictureConfig(max_tiles=1),
            mask=MaskConfig(num_mask_tokens=2, region_width=24),
            prompt=FAMILIES[NANO_LM].prompt,
        )
        return wrap_base(base, folder / "checkpoint", config)
    base, _ = other_base(kind, folder / "base")
    config = replace(tiny_config(), prompt=FAMILIES[kind].prompt)
    return wrap_base(base, folder / "checkpoint", config)


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "safetensors", "onnx"):
    sys.modules[name] = None
from ureca.cli import main
sys.exit(main(sys.argv[1:]))
"""


def describe_without_torch(repository, folder, bundle):
    """`ureca describe` in a process in which torch cannot be imported; its captions."""
    image = folder / "picture.png"
    cv2.imwrite(str(image), picture(90, 120, seed=3)[:, :, ::-1])
    command = [sys.executable, "-c", WITHOUT_TORCH, "describe", str(image), "--json"]
    command += ["--bundle", str(bundle), "--box", "10,10,60,50", "--box", "40,30,70,60"]
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    # An untrained model may say nothing: that alone is told, and it is exit status 1.
    errors = {json.loads(line)["error"] for line in done.stdout.splitlines()} - {None}
    assert errors <= {"the caption is empty"}, done.stdout + done.stderr
    assert done.returncode == int(bool(errors)), done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_wrapped_exported_verified_and_run_without_torch(
    repository, kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "none"))
    checkpoint, bundle = make_checkpoint(kind, tmp_path), tmp_path / "bundle"
    given = ["export", str(checkpoint), "-o", str(bundle), "--runtime", "onnx"]
    assert cli.main([*given, "--precision", "fp32"]) == 0, capsys.readouterr()
    manifest = load_manifest(bundle)
    assert manifest.language
    assert manifest.language.axes == FAMILIES[kind].axes
    report = json.loads((bundle / "parity.json").read_text())
    assert report["bundle"]["max_abs_logit_diff"] < 1e-3
    assert report["bundle"]["teacher_forced"] >= 0.999
    assert report["control"]["teacher_forced"] < 0.9
    verify = ["verify", str(bundle), "--checkpoint", str(checkpoint), "--limit", "4"]
    assert cli.main(verify) == 0
    capsys.readouterr()
    said = describe_without_torch(repository, tmp_path, bundle).splitlines()
    assert len([json.loads(line) for line in said]) == 2
    path = bundle / "lm.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert cli.main(verify) == 2
    assert "altered" in capsys.readouterr().err
