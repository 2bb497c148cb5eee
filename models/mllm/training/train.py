"""Trains one stage of `ureca-mllm`: `ureca mllm train configs/train/mllm-stage1.yaml --out DIR`.

It writes under `--out`: `checkpoint/` (for stage 2, or for `ureca export`), `trainable.txt` (the
names of all trained parameters), `log.jsonl`, and `state/` for resuming: the same command continues
exactly at the last save. Several processes: `torchrun --nproc-per-node 2 -m
ureca.models.mllm.training.train CONFIG --out DIR`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ureca.config import load_config, to_plain
from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    hash_base,
    load_checkpoint,
    read_config,
    save_parts,
)
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.mllm_engine import make_prompt
from ureca.models.mllm.network.lora import get_lora_tensors
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.training.batch_sampler import Group, MllmPlan, load_records
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.freeze import freeze_parts, get_parts
from ureca.models.mllm.training.mllm_learner import ExampleReader, MllmLearner
from ureca.models.mllm.training.shard import gather_tensors, split_layers
from ureca.models.training import loop
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Row, Run


def train(config: MllmTrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run one stage; return the checkpoint folder.

    `stop_after` ends the session early at that step with a save, as a kill would.
    """
    return loop.train(
        config,
        out,
        lambda worker, device: build_run(config, out, worker=worker, device=device),
        stop_after=stop_after,
    )


def build_run(
    config: MllmTrainConfig, out: Path, *, worker: Worker, device: torch.device
) -> Run[Group]:
    """Build model, data and optimiser. The leader writes the list of trained parameters."""
    torch.manual_seed(config.seed)
    start = Path(config.start_from)
    place = "cpu" if config.shard else str(device)  # split before it goes to a device
    model = load_checkpoint(start, precision=config.precision, device=place, merge=False)
    tiles = config.max_tiles if model.family.own_tokens is None else 1
    picture = replace(model.config.picture, max_tiles=tiles)
    model.config = replace(model.config, picture=picture)
    names = freeze_parts(model, config)
    if config.gradient_checkpointing:
        enable_checkpointing(model.base)
    if config.shard:
        split_layers(model, config, worker, device)
    prompt = make_prompt(model, TextTokenizer.load(start / TOKENIZER))
    images = ImageStore(Path(source.root) / "images" for source in config.data)
    learner = MllmLearner(
        model, prompt, ExampleReader(model, prompt, images, config), config, worker=worker
    )
    plan = MllmPlan(
        load_records(config),
        config,
        tiler=ImageTiler.of(model.config),
        tokens_per_tile=picture.tokens_per_tile,
        attributes=model.config.prompt.attributes,
    )
    if worker.leads:
        out.mkdir(parents=True, exist_ok=True)
        (out / "trainable.txt").write_text("\n".join(names) + "\n")
        (out / "config.json").write_text(json.dumps(to_plain(config), indent=2) + "\n")
    return Run(
        learner=learner,
        plan=plan,
        title=f"stage {config.stage}",
        log_every=config.log_every,
        row=lambda done, loss: _make_log_row(learner, done, loss),
        keep=lambda folder: _write_checkpoint(learner, folder),
    )


def enable_checkpointing(base: Any) -> None:
    """Recompute activations in the backward pass; transformers 5.23 renamed the method."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(base, name) for name in names if hasattr(base, name))
    enable({"use_reentrant": False})


def _make_log_row(learner: MllmLearner, done: int, loss: float) -> Row:
    config = learner.config
    return {
        "step": done,
        "loss": loss,
        "rate": config.learning_rate * learner.rate_factor(done - 1),
        "regions": done * config.rows_per_step,
    }


def _write_checkpoint(learner: MllmLearner, out: Path) -> None:
    """Write the checkpoint. Its base is named by a relative path, unless it learnt. All workers
    call this, because each may hold a part of the adapters.
    """
    model, recipe = learner.model, learner.config
    parts = get_parts(model, recipe)
    low = gather_tensors(get_lora_tensors(model.language))
    if not learner.worker.leads:
        return
    start = Path(recipe.start_from)
    base = (start / model.config.base).resolve()
    config = replace(
        model.config,
        base=os.path.relpath(base, out.resolve()),
        lora=(read_config(start).lora or recipe.lora) if low else None,
        projector=model.config.projector or parts.projector,
    )
    if parts.everything:
        model.base.save_pretrained(out / "base")
        config = replace(
            config,
            base="base",
            base_sha256=hash_base(out / "base"),
            base_learned=True,
            projector=False,
        )
    save_parts(out, model, config=config, tokenizer=start / TOKENIZER, low=low)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm train CONFIG [--out DIR] [--set a.b=c]`."""
    parser = loop.build_training_parser(
        "ureca mllm train",
        __doc__,
        example="ureca mllm train configs/train/mllm-stage1.yaml --set steps=100",
        recipe="MllmTrainConfig (see configs/train/mllm-*.yaml)",
        out=Path("runs/mllm"),
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of all trained parameters, and end"
    )
    args = parser.parse_args(argv)
    config = load_config(MllmTrainConfig, args.config, args.set)
    if args.list:
        return _print_trainable(config)
    checkpoint = train(config, args.out, stop_after=args.stop_after)
    if os.environ.get("RANK", "0") == "0":
        print(f"checkpoint: {checkpoint}\nnext: ureca export {checkpoint} -o {args.out / 'bundle'}")
    return 0


def _print_trainable(config: MllmTrainConfig) -> int:
    start = Path(config.start_from)
    if not (start / "mllm.json").is_file():
        raise ConfigError(f"start_from {str(start)!r} is not a checkpoint: ureca mllm wrap BASE")
    model = load_checkpoint(start, precision=config.precision, merge=False)
    names = set(freeze_parts(model, config))
    for name, parameter in model.named_parameters():
        if name in names:
            print(f"{parameter.numel():>12,}  {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
