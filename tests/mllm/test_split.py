"""Layers split over two processes (FSDP2): equal to whole ones, exact when resumed, truly split."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from processes import STEPS, recipe, sources, two_processes
from safetensors.torch import load_file

from ureca.errors import ConfigError
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.config import LoraConfig
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig, Parts
from ureca.models.mllm.training.shard import split_layers
from ureca.models.mllm.training.train import train
from ureca.models.training.distributed import Worker


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [1, 2])
def test_split_layers_learn_what_whole_ones_do(
    repository, tiny_checkpoint, tiny_data, tmp_path, stage
):
    """FSDP2 on two processes against one process with everything, and its saves resumed by it."""
    lora = {"rank": 3, "alpha": 6.0, "dropout": 0.0}
    given = recipe(tmp_path, tiny_data, tiny_checkpoint, stage, lora=lora, shard=True)
    ran = two_processes(repository, tmp_path / "split", given)
    lora = LoraConfig(**lora)
    config = MllmTrainConfig(**{**given, "data": sources(given), "lora": lora})
    train(config, tmp_path / "alone")
    name = {1: "mask", 2: "lora"}[stage]
    ours, alone = (
        load_file(folder / "checkpoint" / f"{name}.safetensors")
        for folder in (ran, tmp_path / "alone")
    )
    assert ours.keys() == alone.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, alone[key], rtol=1e-4, atol=1e-5)
    for kind in ("learned", "optimizer"):
        (theirs, own) = (
            load_file(folder / "state" / f"step-{STEPS:07d}" / f"{kind}.safetensors")
            for folder in (ran, tmp_path / "alone")
        )
        assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}
    # One process goes on from what two have saved in parts.
    train(replace(config, steps=STEPS + 1), ran)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_resumed_split_run_equals_an_unbroken_one(
    repository, tiny_checkpoint, tiny_data, tmp_path
):
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.3}
    more = {"lora": lora, "shard": True, "precision": "bf16", "gradient_clip": 0.1}
    given = recipe(tmp_path, tiny_data, tiny_checkpoint, 2, **more)
    whole = two_processes(repository, tmp_path / "whole", given)
    broken = two_processes(repository, tmp_path / "broken", given, "--stop-after", "1")
    two_processes(repository, broken, given)
    ours, again = (load_file(f / "checkpoint" / "lora.safetensors") for f in (whole, broken))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


HELD = """
import sys
from pathlib import Path
import torch
from ureca.config import load_config
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.train import build_run
from ureca.models.training.distributed import join

device = torch.device("cpu")
config, worker = load_config(MllmTrainConfig, Path(sys.argv[1])), join(device)
run = build_run(config, Path(sys.argv[2]), worker=worker, device=device)
layers = list(run.learner.model.language.layers.parameters())
whole, held = sum(p.numel() for p in layers), sum(p.to_local().numel() for p in layers)
run.learner.learn(0, next(run.plan.steps(0, 1))[1])
after = sum(p.to_local().numel() for p in layers)
gradients = [p.grad.full_tensor() for p in run.learner.parameters]
length = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
print(f"HELD {held} of {whole}, {after} after a step, gradient {length:.6f}", flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_worker_holds_its_part_of_the_layers(repository, tiny_checkpoint, tiny_data, tmp_path):
    given = recipe(tmp_path, tiny_data, tiny_checkpoint, 2, shard=True)
    given["gradient_clip"] = 0.001
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    (tmp_path / "held.py").write_text(HELD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "held.py"), str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"HELD (\d+) of (\d+), (\d+) after a step, gradient ([\d.]+)", done.stdout)
    assert len(found) == 2
    for held, whole, after, gradient in found:
        assert float(gradient) == pytest.approx(0.001, rel=1e-2), "clipped over all parts"
        assert held == after, "given up again behind the step"
        assert int(held) <= 0.6 * int(whole)


def test_split_runs_that_would_hang_or_lose_something_are_refused(tiny_checkpoint):
    model, two, cpu = load_checkpoint(tiny_checkpoint), Worker(0, 2), torch.device("cpu")
    data = {"data": (MllmDataConfig(root="x"),), "start_from": "x", "shard": True}
    with pytest.raises(ConfigError, match="5 rows a step over 2 workers"):
        split_layers(model, MllmTrainConfig(**data, rows_per_step=5), two, cpu)
    with pytest.raises(ConfigError, match="unsplit run"):
        split_layers(
            model, MllmTrainConfig(**data, parts=Parts(mask=True, projector=True)), two, cpu
        )
