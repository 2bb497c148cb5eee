"""FineCaption: stages on two processes; parts joined, wrapped, trained, exported with a
proof, run by the node.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from processes import recipe, sources, two_processes
from safetensors.torch import load_file
from test_whole_path import run_node

from ureca import cli
from ureca.bundle import bundle_sha, load_manifest
from ureca.models.mllm.checkpoints.wrap import wrap_base
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.network.families import find_family
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.train import train


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_learn_what_one_does(repository, fine_checkpoint, tiny_data, tmp_path, stage):
    rate = {1: 3e-3, 2: 3e-2, 3: 1e-4}[stage]
    given = recipe(tmp_path, tiny_data, fine_checkpoint, stage, learning_rate=rate, steps=2)
    two = two_processes(repository, tmp_path / "two", given)
    config = MllmTrainConfig(
        **{**given, "data": sources(given), "start_from": str(fine_checkpoint)}
    )
    train(config, tmp_path / "one")
    file = {1: "projector.safetensors", 2: "mask.safetensors", 3: "base/model.safetensors"}[stage]
    ours, alone = (load_file(f / "checkpoint" / file) for f in (two, tmp_path / "one"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)
    names = (two / "trainable.txt").read_text().split()
    if stage < 3:
        assert len(names) == {1: 4, 2: 1}[stage]
    else:
        towers = {name.split(".")[3] for name in names if "vision_tower" in name}
        assert towers == {"clip", "convnext", "sam"}
    if stage == 2:
        assert ours["mask_convolution.weight"].abs().max() > 1e-3


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_joined_wrapped_trained_exported_and_run_in_the_node(
    repository, fine_parts, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "none"))
    parts = tmp_path / "parts.yaml"
    parts.write_text(yaml.safe_dump({**fine_parts, "tile_px": 128, "dtype": "fp32"}))
    base, start = tmp_path / "base", tmp_path / "start"
    assert cli.main(["mllm", "join", "-o", str(base), "--config", str(parts)]) == 0
    prompt = find_family("ureca_finecaption").prompt
    wrap_base(base, start, MllmConfig(prompt=prompt, max_new_tokens=8))
    for stage, rate in ((1, 3e-3), (2, 3e-2), (3, 1e-3)):
        given = recipe(tmp_path, tiny_data, start, stage, learning_rate=rate)
        config = MllmTrainConfig(**{**given, "data": sources(given), "start_from": str(start)})
        start = train(config, tmp_path / f"stage{stage}")

    # Exported with a proof: the mask convolution of another seed disagrees.
    bundle = tmp_path / "bundle"
    assert cli.main(["export", str(start), "-o", str(bundle)]) == 0
    manifest = load_manifest(bundle)
    report = json.loads((bundle / "parity.json").read_text())
    assert report["bundle"]["caption_exact"] == 1
    assert report["control"]["teacher_forced"] < 0.99
    verify = ["verify", str(bundle), "--checkpoint", str(start), "--limit", "4"]
    assert cli.main(verify) == 0

    # The node captions with it, and its counters balance.
    finals = [e for e in run_node(repository, tmp_path, bundle) if e["ev"] == "caption.final"]
    assert finals
    assert all(e["text"] and e["n_tok"] >= 1 for e in finals)
    assert {e["bundle_sha"] for e in finals} == {bundle_sha(manifest)}
