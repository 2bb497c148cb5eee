"""Trains one stage of a text segmenter.

`ureca mllm unires train configs/train/unires-stage1.yaml --out DIR` writes under `--out`:
`checkpoint/`, `trainable.txt` (the names of all trained parameters), `log.jsonl` with every kind of
loss, and `state/` for resuming: the same command continues exactly at the last save. Several
processes: `torchrun --nproc-per-node 2 -m ureca.models.mllm.unires.train CONFIG --out DIR`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ureca.models.data.regions import ImageStore
from ureca.models.mllm.staged.pictures import PictureRows, load_pictures
from ureca.models.mllm.staged.train import make_run, run_command
from ureca.models.mllm.training.train import enable_checkpointing
from ureca.models.mllm.unires.checkpoint import load_unires, make_reader, save_stage
from ureca.models.mllm.unires.config import UniresTrainConfig
from ureca.models.mllm.unires.network import Unires
from ureca.models.mllm.unires.task import UniresTask, freeze_unires, list_expressions
from ureca.models.training import loop
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Run


def train(config: UniresTrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run one stage; return the checkpoint folder. `stop_after` ends the session early."""
    return loop.train(
        config,
        out,
        lambda worker, device: build_run(config, out, worker=worker, device=device),
        stop_after=stop_after,
    )


def open_for_stage(config: UniresTrainConfig, device: str = "cpu") -> Unires:
    """Load the checkpoint that the stage starts from, frozen as the stage says."""
    torch.manual_seed(config.seed)  # of fresh adapters
    model = load_unires(Path(config.start_from), device=device, merge=False)
    freeze_unires(model, config)
    if config.stage == 2:
        model.config = replace(model.config, lora=model.config.lora or config.lora)
    return model


def build_run(
    config: UniresTrainConfig, out: Path, *, worker: Worker, device: torch.device
) -> Run[PictureRows]:
    """Build model, data and optimiser."""
    start = Path(config.start_from)
    model = open_for_stage(config, str(device))
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    if config.gradient_checkpointing:
        enable_checkpointing(model.mllm.base)
    images = ImageStore(Path(source.root) / "images" for source in config.data)
    pictures = load_pictures(config, is_wanted=_has_texts)
    texts = sorted({text for rows in pictures for text in list_expressions(rows)}) or [""]
    task = UniresTask(model, make_reader(model, start), images, config, texts=texts)
    return make_run(
        config,
        out,
        model,
        task,
        pictures,
        worker=worker,
        title=f"unires stage {config.stage}",
        slow={},
        keep=lambda folder: save_stage(folder, start, model, learned),
    )


def _has_texts(picture: PictureRows) -> bool:
    return bool(picture.queries) or any(region.short for region in picture.regions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm unires train CONFIG [--out DIR] [--set a.b=c]`."""
    return run_command(
        UniresTrainConfig,
        argv,
        prog="ureca mllm unires train",
        about=__doc__,
        example="ureca mllm unires train configs/train/unires-stage1.yaml --set steps=100",
        recipe="UniresTrainConfig (see configs/train/unires-*.yaml)",
        train=train,
        open_model=open_for_stage,
    )


if __name__ == "__main__":
    raise SystemExit(main())
