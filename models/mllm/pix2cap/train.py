"""Trains one stage of a query captioner.

`ureca mllm pix2cap train configs/train/pix2cap-stage1.yaml --out DIR` writes under `--out`:
`checkpoint/`, `trainable.txt` (the names of all trained parameters), `log.jsonl` with every kind of
loss, and `state/` for resuming: the same command continues exactly at the last save. Several
processes: `torchrun --nproc-per-node 2 -m ureca.models.mllm.pix2cap.train CONFIG --out DIR`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ureca.models.data.regions import ImageStore
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER
from ureca.models.mllm.pix2cap.checkpoint import load_pix2cap, save_stage
from ureca.models.mllm.pix2cap.config import Pix2CapTrainConfig
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.task import Pix2CapTask, freeze_pix2cap
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.staged.pictures import PictureRows, load_pictures
from ureca.models.mllm.staged.train import make_run, run_command
from ureca.models.training import loop
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Run


def train(config: Pix2CapTrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run one stage; return the checkpoint folder. `stop_after` ends the session early."""
    return loop.train(
        config,
        out,
        lambda worker, device: build_run(config, out, worker=worker, device=device),
        stop_after=stop_after,
    )


def open_for_stage(config: Pix2CapTrainConfig, device: str = "cpu") -> Pix2Cap:
    """Load the checkpoint that the stage starts from, frozen as the stage says."""
    model = load_pix2cap(Path(config.start_from), device=device)
    freeze_pix2cap(model, config)
    return model


def build_run(
    config: Pix2CapTrainConfig, out: Path, *, worker: Worker, device: torch.device
) -> Run[PictureRows]:
    """Build model, data and optimiser."""
    start = Path(config.start_from)
    model = open_for_stage(config, str(device))
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    images = ImageStore(Path(source.root) / "images" for source in config.data)
    words = TextTokenizer.load(start / TOKENIZER)
    return make_run(
        config,
        out,
        model,
        Pix2CapTask(model, words, images, config),
        load_pictures(config, is_wanted=_has_words),
        worker=worker,
        title=f"pix2cap stage {config.stage}",
        slow={"language.": config.language_rate} if config.stage == 2 else {},
        keep=lambda folder: save_stage(folder, start, model, learned),
    )


def _has_words(picture: PictureRows) -> bool:
    return any(region.long or region.short for region in picture.regions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm pix2cap train CONFIG [--out DIR] [--set a.b=c]`."""
    return run_command(
        Pix2CapTrainConfig,
        argv,
        prog="ureca mllm pix2cap train",
        about=__doc__,
        example="ureca mllm pix2cap train configs/train/pix2cap-stage1.yaml --set steps=100",
        recipe="Pix2CapTrainConfig (see configs/train/pix2cap-*.yaml)",
        train=train,
        open_model=open_for_stage,
    )


if __name__ == "__main__":
    raise SystemExit(main())
