"""Recipes of a few steps, and `torchrun` with two workers."""

from __future__ import annotations

import os
import subprocess
import sys

import yaml

STEPS = 3


def recipe(folder, data, start, stage, **more):
    return {
        "data": [{"root": str(data)}],
        "start_from": str(start),
        "stage": stage,
        "steps": STEPS,
        "rows_per_step": 4,
        "rows_per_pass": 1,
        "max_tiles": 2,
        "learning_rate": 0.01,
        "gradient_clip": 1e6,
        "device": "cpu",
        "threads": 1,
        "held_out_every": 0,
        "log_every": 1,
        **more,
    }


def two_processes(repository, folder, given, *options, module="ureca.models.mllm.training.train"):
    """`torchrun` with two workers; returns the run's folder."""
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(given))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", module, str(path), "--out", str(folder)]
    command += options
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("checkpoint:") == 1, "one worker reports"
    return folder


def sources(given):
    """`data` of a recipe as the configuration has it."""
    from ureca.models.mllm.training.config import MllmDataConfig

    return tuple(MllmDataConfig(**source) for source in given["data"])
