"""FineCaption's whole path: parts joined, wrapped, three stages on two processes, exported with a
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
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.train import train


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_joined_wrapped_trained_exported_and_run_in_the_node(
    repository, fine_parts, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "none"))
    given = tmp_path / "parts.yaml"
    given.write_text(yaml.safe_dump({**fine_parts, "tile_px": 128, "dtype": "fp32"}))
    base, start = tmp_path / "base", tmp_path / "start"
    assert cli.main(["mllm", "join", "-o", str(base), "--config", str(given)]) == 0
    assert cli.main(["mllm", "wrap", str(base), "-o", str(start)]) == 0

    # Three stages on two processes; the first is compared with one process.
    folders = []
    for stage, rate in ((1, 3e-3), (2, 3e-2), (3, 1e-3)):
        asked = recipe(tmp_path, tiny_data, start, stage, learning_rate=rate)
        folders.append(two_processes(repository, tmp_path / f"stage{stage}", asked))
        if stage == 1:
            config = MllmTrainConfig(**{**asked, "data": sources(asked), "start_from": str(start)})
            train(config, tmp_path / "alone")
            pair = (
                load_file(f / "checkpoint" / "projector.safetensors")
                for f in (folders[0], tmp_path / "alone")
            )
            ours, alone = pair
            for name, tensor in ours.items():
                torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
        start = folders[-1] / "checkpoint"
    names = [(folder / "trainable.txt").read_text().split() for folder in folders]
    assert [len(each) for each in names[:2]] == [4, 1]
    assert {n.split(".")[3] for n in names[2] if "vision_tower" in n} == {"clip", "convnext", "sam"}
    one, two = (load_file(f / "checkpoint" / "mask.safetensors") for f in folders[:2])
    assert one["mask_convolution.weight"].abs().max() == 0
    assert two["mask_convolution.weight"].abs().max() > 1e-3
    assert load_checkpoint(start).config.base_learned

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
