"""Train one stage of `ureca-mllm`: `ureca mllm train configs/train/mllm-stage1.yaml --out DIR`.

Writes under `--out`: `checkpoint/` (for stage 2, or for `ureca export`), `trainable.txt` (the names
of everything that learnt), `log.jsonl`, and `state/` for resuming: the same command goes on exactly
where the last save was. Several processes: `torchrun --nproc-per-node 2 -m
ureca.models.mllm.training.train CONFIG --out DIR`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ureca.config import load_config, to_plain
from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    load_checkpoint,
    read_config,
    save_parts,
)
from ureca.models.mllm.engine import prompt_of
from ureca.models.mllm.image_tiles import Cutter
from ureca.models.mllm.network.lora import lora_tensors
from ureca.models.mllm.prompt import Words
from ureca.models.mllm.training.batch_sampler import Plan, load_records
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.freeze import freeze
from ureca.models.mllm.training.shard import split, whole
from ureca.models.mllm.training.state import resume_state, save_state
from ureca.models.mllm.training.step import Learner, Reader, schedule
from ureca.models.training.distributed import Worker, join


@dataclass(frozen=True)
class Run:
    """Everything that the loop needs, built once."""

    config: MllmTrainConfig
    out: Path
    learner: Learner
    plan: Plan
    names: list[str]


def train(config: MllmTrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run one stage; returns the checkpoint folder.

    `stop_after` ends the session early at that step with a save, as a kill would.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config)
    worker = join(device)
    try:
        run = build(config, out, worker=worker, device=device)
        start = resume_state(out / "state", run.learner)
        stop = min(config.steps, stop_after or config.steps)
        _loop(run, start, stop)
        low = whole(lora_tensors(run.learner.model.language))
        if worker.leads:
            _save(run, low)
        worker.wait()
    finally:
        if worker.count > 1:
            torch.distributed.destroy_process_group()
    return out / "checkpoint"


def build(config: MllmTrainConfig, out: Path, *, worker: Worker, device: torch.device) -> Run:
    """Model, data and optimiser. The leader writes the list of what learns."""
    torch.manual_seed(config.seed)
    start = Path(config.start_from)
    place = "cpu" if config.shard else str(device)  # split before it goes to a device
    model = load_checkpoint(start, precision=config.precision, device=place, merge=False)
    picture = replace(model.config.picture, max_tiles=config.max_tiles)
    model.config = replace(model.config, picture=picture)
    names = freeze(model, config)
    if config.gradient_checkpointing:
        model.base.activation_checkpointing_enable({"use_reentrant": False})
    if config.shard:
        split(model, config, worker, device)
    prompt = prompt_of(model, Words.load(start / TOKENIZER))
    images = ImageStore(Path(source.root) / "images" for source in config.data)
    learner = Learner(model, prompt, Reader(model, prompt, images, config), config, worker=worker)
    plan = Plan(
        load_records(config),
        config,
        cutter=Cutter.of(model.config),
        tokens_per_tile=picture.tokens_per_tile,
    )
    if worker.leads:
        out.mkdir(parents=True, exist_ok=True)
        (out / "trainable.txt").write_text("\n".join(names) + "\n")
        (out / "config.json").write_text(json.dumps(to_plain(config), indent=2) + "\n")
    return Run(config, out, learner, plan, names)


def _loop(run: Run, start: int, stop: int) -> None:
    config, leads = run.config, run.learner.worker.leads
    began, losses = time.monotonic(), []
    bar = tqdm(
        run.plan.steps(start, stop),
        initial=start,
        total=config.steps,
        desc=f"stage {config.stage}",
        disable=None if leads else True,
    )
    for step, groups in bar:
        losses.append(run.learner.learn(step, groups))
        done = step + 1
        if leads and (done % config.log_every == 0 or done == stop):
            _log(run, done, losses, seconds=time.monotonic() - began)
            losses = []
        if done % config.save_every == 0 or done == stop:
            save_state(run.out / "state", run.learner, step=done)


def _log(run: Run, done: int, losses: Sequence[float], *, seconds: float) -> None:
    row = {
        "step": done,
        "loss": sum(losses) / len(losses),
        "rate": run.config.learning_rate * schedule(done - 1, run.config),
        "regions": done * run.config.rows_per_step,
        "session_s": round(seconds, 1),
    }
    with (run.out / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


def _save(run: Run, low: dict[str, Tensor]) -> None:
    """The checkpoint with the adapters `low`. Its base stays where it is and is named by a relative
    path.
    """
    model, out = run.learner.model, run.out / "checkpoint"
    start = Path(run.config.start_from)
    base = (start / model.config.base).resolve()
    config = replace(
        model.config,
        base=os.path.relpath(base, out.resolve()),
        lora=(read_config(start).lora or run.config.lora) if low else None,
        projector=model.config.projector or run.config.learns.projector,
    )
    save_parts(out, model, config=config, tokenizer=start / TOKENIZER, low=low)


def _device(config: MllmTrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def main(argv: Sequence[str] | None = None) -> int:
    """`ureca mllm train CONFIG [--out DIR] [--set a.b=c]`."""
    parser = argparse.ArgumentParser(
        prog="ureca mllm train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ureca mllm train configs/train/mllm-stage1.yaml --set steps=100",
    )
    add = parser.add_argument
    add("config", type=Path, help="YAML of MllmTrainConfig (see configs/train/mllm-*.yaml)")
    add("--out", type=Path, default=Path("runs/mllm"), help="folder of this run (%(default)s)")
    add("--set", action="append", default=[], metavar="a.b=c", help="override one value")
    add("--stop-after", type=int, metavar="STEP", help="stop at a step; the run can resume")
    add("--list", action="store_true", help="print the names of the trained parameters and exit")
    args = parser.parse_args(argv)
    config = load_config(MllmTrainConfig, args.config, args.set)
    if args.list:
        return _list(config)
    checkpoint = train(config, args.out, stop_after=args.stop_after)
    if os.environ.get("RANK", "0") == "0":
        print(f"checkpoint: {checkpoint}\nnext: ureca export {checkpoint} -o {args.out / 'bundle'}")
    return 0


def _list(config: MllmTrainConfig) -> int:
    start = Path(config.start_from)
    if not (start / "mllm.json").is_file():
        raise ConfigError(f"start_from {str(start)!r} is not a checkpoint: ureca mllm wrap BASE")
    model = load_checkpoint(start, precision=config.precision, merge=False)
    names = set(freeze(model, config))
    for name, parameter in model.named_parameters():
        if name in names:
            print(f"{parameter.numel():>12,}  {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
