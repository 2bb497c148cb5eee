"""The whole path of `ureca-mllm` in one test: wrapped, trained in two stages on two processes,
exported, verified, run by the node. The model is random and of the package's own classes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import STEPS, recipe, sources, two_processes
from safetensors.torch import load_file
from worlds import masks, picture

from ureca import cli
from ureca.bundle import bundle_sha, load_manifest
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.train import train
from ureca.protocol import rle

MASK_NAMES = [
    f"masks.{part}.{kind}"
    for part in ("mask_encoder.0", "mask_encoder.2", "mask_linear")
    for kind in ("weight", "bias")
]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_wrapped_trained_exported_verified_and_run_in_the_node(
    repository, tiny_checkpoint, tiny_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "none"))

    # Stage 1 on two processes: only the mask modules learn, and they learn what one process would.
    given = recipe(tmp_path, tiny_data, tiny_checkpoint, 1)
    one = two_processes(repository, tmp_path / "one", given)
    assert (one / "trainable.txt").read_text().split() == MASK_NAMES
    config = MllmTrainConfig(
        **{**given, "data": sources(given), "start_from": str(tiny_checkpoint)}
    )
    train(config, tmp_path / "alone")
    ours = load_file(one / "checkpoint" / "mask.safetensors")
    alone = load_file(tmp_path / "alone" / "checkpoint" / "mask.safetensors")
    before = load_file(tiny_checkpoint / "mask.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
    assert (ours["mask_linear.weight"] - before["mask_linear.weight"]).abs().max() > 1e-3

    # Stage 2: adapters only; the mask encoder stays as stage 1 left it.
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.05}
    given = recipe(tmp_path, tiny_data, one / "checkpoint", 2, lora=lora)
    two = two_processes(repository, tmp_path / "two", given)
    names = (two / "trainable.txt").read_text().split()
    assert len(names) == 2 * 7 * 2  # two layers, seven matrices, A and B
    assert all(".language_model.layers." in n and ".lora_" in n for n in names)
    after = load_file(two / "checkpoint" / "mask.safetensors")
    assert all(torch.equal(after[name], ours[name]) for name in ours)
    low = load_file(two / "checkpoint" / "lora.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in low.items() if "lora_B" in name)
    losses = [json.loads(line)["loss"] for line in (two / "log.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()

    # Exported with a proof, and verified by the command.
    bundle = tmp_path / "bundle"
    assert cli.main(["export", str(two / "checkpoint"), "-o", str(bundle)]) == 0
    manifest = load_manifest(bundle)
    assert manifest.runtime == "transformers"
    report = json.loads((bundle / "parity.json").read_text())
    assert report["bundle"]["caption_exact"] == 1
    assert report["control"]["teacher_forced"] < 0.9
    verify = ["verify", str(bundle), "--checkpoint", str(two / "checkpoint"), "--limit", "4"]
    assert cli.main(verify) == 0
    assert "verified" in capsys.readouterr().out
    assert cli.main(["verify", str(bundle), "--checkpoint", str(one / "checkpoint")]) == 2
    assert "another checkpoint" in capsys.readouterr().err

    # The node captions with it, its counters balance.
    events = run_node(repository, tmp_path, bundle)
    finals = [e for e in events if e["ev"] == "caption.final"]
    assert finals
    assert all(e["text"] and e["n_tok"] >= 1 for e in finals)
    assert {e["model"] for e in finals} == {"ureca-mllm-tiny"}
    assert {e["bundle_sha"] for e in finals} == {bundle_sha(manifest)}

    # Without torch it says what is missing; nothing else of the node needs it.
    assert "pip install 'ureca[mllm]'" in without_torch(repository, bundle)

    # An altered file is found before anything of it is used.
    path = bundle / "mask.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert cli.main(["describe", str(tmp_path / "clip" / "00000.png"), "--bundle", str(bundle),
                     "--box", "10,10,60,60"]) == 2  # fmt: skip
    assert "altered" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_resumed_run_of_two_processes_equals_an_unbroken_one(
    repository, tiny_checkpoint, tiny_data, tmp_path
):
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.3}
    given = recipe(tmp_path, tiny_data, tiny_checkpoint, 2, lora=lora)
    whole = two_processes(repository, tmp_path / "whole", given)
    broken = two_processes(repository, tmp_path / "broken", given, "--stop-after", "1")
    ours, half = (load_file(f / "checkpoint" / "lora.safetensors") for f in (whole, broken))
    assert any(not torch.equal(ours[name], half[name]) for name in ours)
    two_processes(repository, broken, given)
    again = load_file(broken / "checkpoint" / "lora.safetensors")
    assert all(torch.equal(ours[name], again[name]) for name in ours)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from ureca.errors import MissingExtraError
from ureca.node.captioning.engine_loader import open_engine
try:
    open_engine(sys.argv[1])
except MissingExtraError as error:
    print(error)
"""


def without_torch(repository, bundle):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(bundle)]
    env = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def run_node(repository, folder, bundle):
    """`ureca run` as a process of its own on a folder of pictures; its events."""
    import cv2

    clip = folder / "clip"
    clip.mkdir()
    for n in range(6):
        cv2.imwrite(str(clip / f"{n:05}.png"), picture(90, 120, seed=3)[:, :, ::-1])
    coded = rle.encode(masks(2)[1])
    mask = {"size": list(coded.size), "counts": coded.counts}
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps([{"frame": 0, "rid": "one", "mask": mask}]))
    out = folder / "events.jsonl"
    command = [sys.executable, "-m", "ureca", "run", "--source", str(clip), "--no-realtime"]
    command += ["--prompts", str(prompts), "--bundle", str(bundle), "--events", str(out)]
    command += ["--set", f"publish.events=ipc://{folder}/e"]
    command += ["--set", f"publish.requests=ipc://{folder}/r"]
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every frame and caption is accounted for" in done.stdout, done.stdout
    return [json.loads(line) for line in out.read_text().splitlines()]
