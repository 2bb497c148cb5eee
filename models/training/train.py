"""Train a captioner: `ureca train configs/train/nano.yaml`. One recipe, readable from top to
bottom.

Reads regions and pictures, learns a tokenizer, starts the trunk from ImageNet, and writes under
`--out`: `checkpoint/` (what `ureca export` takes), `log.jsonl`, TensorBoard events, and `state/`
for resuming. Run the same command again after a kill and it goes on exactly where the last save
was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint, save_checkpoint
from ureca.models.nano.trunk import Trunk, head_conv, load_imagenet
from ureca.models.tokenizer import Tokenizer, train_tokenizer
from ureca.models.training.batch_sampler import Group, Plan
from ureca.models.training.config import TrainConfig
from ureca.models.training.dataset import Region, build_regions, load_records
from ureca.models.training.distributed import Worker, join
from ureca.models.training.feature_source import MapSource, cached_maps, trunk_maps
from ureca.models.training.logit_prior import log_prior
from ureca.models.training.losses import Guides
from ureca.models.training.reward import Rewarder
from ureca.models.training.state import resume_state, save_state
from ureca.models.training.step import Learner, schedule

_VALIDATION_BATCHES = 6


@dataclass(frozen=True)
class Run:
    """Everything that the loop needs, built once."""

    config: TrainConfig
    out: Path
    learner: Learner
    worker: Worker
    plan: Plan
    validation: Plan
    maps: MapSource
    tokenizer_json: str


def train(config: TrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run the recipe; returns the checkpoint folder.

    `stop_after` ends the session early at that step with a save, as a kill would (the schedule is
    unchanged).
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    worker = join(_device(config))
    run = worker.in_turn(lambda: _build(config, out, worker))
    start = resume_state(out / "state", run.learner)
    stop = min(config.steps, stop_after or config.steps)
    _loop(run, start, stop)
    if worker.leads:
        save_checkpoint(
            out / "checkpoint",
            run.learner.average,
            tokenizer_json=run.tokenizer_json,
            half=True,
            left_out=[n for n, p in run.learner.model.named_parameters() if not p.requires_grad],
        )
    worker.wait()
    return out / "checkpoint"


def _build(config: TrainConfig, out: Path, worker: Worker) -> Run:
    records = load_records(config.data)
    regions = build_regions(records, config.model.vision, cache=Path(config.cache))
    held = {r.image_key for _, r in records if r.held_out(config.held_out_every)}
    seen = [r for r in regions if r.image_key not in held]
    tokenizer = _tokenizer(seen, config, out)
    model, average = _models(config)
    device = _device(config)
    images = ImageStore(Path(d.root) / "images" for d in config.data)
    if config.trunk == "trained":
        maps = trunk_maps(model, images, config=config, device=device)
    else:
        trunk = Trunk()
        load_imagenet(trunk, head_conv())
        maps = cached_maps(trunk, images, shards=_shards(records), config=config, device=device)
    guides = Guides(_prior(seen, tokenizer, config).to(device), _rewarder(seen, tokenizer, config))
    model, average = model.to(device), average.to(device)
    learner = Learner(model, average, config, worker=worker, guides=guides)
    validation = Plan([r for r in regions if r.image_key in held], tokenizer, config)
    text = (out / TOKENIZER).read_text(encoding="utf8")
    plan = Plan(seen, tokenizer, config)
    return Run(config, out, learner, worker, plan, validation, maps, text)


def _shards(records: Sequence[tuple[int, RegionRecord]]) -> dict[tuple[int, str], list[str]]:
    """Picture keys of every (source, shard)."""
    found: dict[tuple[int, str], set[str]] = defaultdict(set)
    for source, record in records:
        found[source, record.shard].add(record.image_key)
    return {shard: sorted(keys) for shard, keys in found.items()}


def _tokenizer(seen: Sequence[Region], config: TrainConfig, out: Path) -> Tokenizer:
    path = out / TOKENIZER
    given = config.tokenizer or (config.start_from and str(Path(config.start_from) / TOKENIZER))
    if given:
        shutil.copyfile(given, path)
    if not path.exists():
        train_tokenizer(_texts(seen), config.model.language.vocab_size).save(path)
    return Tokenizer.load(path)


def _texts(seen: Sequence[Region]) -> Iterator[str]:
    return (text for region in seen for text in (*region.short, *region.long))


def _prior(seen: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig) -> torch.Tensor:
    size = config.model.language.vocab_size
    if config.prior_weight == 0:
        return torch.zeros(size)
    counted = [region for region in seen if config.data[region.source].in_prior]
    return config.prior_weight * log_prior(_texts(counted), tokenizer, size=size)


def _rewarder(seen: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig) -> Rewarder | None:
    if config.reward_weight <= 0:
        return None
    phrases = [region.short or region.long for region in seen]
    return Rewarder(phrases, decode=tokenizer.decode, neighbour_weight=config.neighbour_weight)


def _models(config: TrainConfig) -> tuple[Captioner, Captioner]:
    torch.manual_seed(config.seed)
    model, average = Captioner(config.model), Captioner(config.model)
    model.load_imagenet()
    _freeze(model, config)
    if config.start_from:
        _start_from(model, load_checkpoint(Path(config.start_from)), config)
    average.load_state_dict(model.state_dict())
    for one in (model, average):  # oneDNN's backward of thin convolutions is 5 times faster so
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, average.requires_grad_(requires_grad=False)


def _freeze(model: Captioner, config: TrainConfig) -> None:
    """The classifier's classes keep their meaning, and the trunk is trained as far as asked."""
    for name, parameter in model.named_parameters():
        if name.startswith(("trunk.", "features.classifier.")):
            parameter.requires_grad_(config.trunk == "trained")
    model.trunk.tail_blocks.requires_grad_(config.trunk != "frozen")


def _start_from(model: Captioner, start: Captioner, config: TrainConfig) -> None:
    """Take a checkpoint's weights; what is frozen stays ImageNet's, so its cache holds."""
    if start.config != config.model:
        raise ConfigError(
            f"{config.start_from} holds {start.config}; this recipe trains {config.model}: "
            "start from a checkpoint of the same sizes and switches"
        )
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    model.load_state_dict({**start.state_dict(), **frozen})


def _device(config: TrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _loop(run: Run, start: int, stop: int) -> None:
    vision = run.config.model.vision
    if not run.worker.leads:
        for step, groups in run.plan.steps(start, stop):
            _learn(run, step, groups)
        return
    held = [
        run.validation.collate(g, vision) for _, g in run.validation.steps(0, _VALIDATION_BATCHES)
    ]
    board = require("torch.utils.tensorboard", extra="train")
    began, losses = time.monotonic(), []
    bar = tqdm(
        run.plan.steps(start, stop),
        initial=start,
        total=run.config.steps,
        desc="train",
        unit="step",
    )
    with board.SummaryWriter(str(run.out / "tensorboard")) as writer:
        for step, groups in bar:
            losses.append(_learn(run, step, groups))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if (step + 1) % run.config.save_every == 0 or step + 1 == stop:
                save_state(run.out / "state", run.learner, step=step + 1)
            if (step + 1) % run.config.evaluate_every == 0 or step + 1 == stop:
                value = run.learner.validate([(b, run.maps(b.pictures)) for b in held])
                seconds = time.monotonic() - began
                _log(run.out, writer, _row(run.config, step + 1, losses, value, seconds=seconds))
                losses.clear()


def _learn(run: Run, step: int, groups: Sequence[Group]) -> float:
    """One step on this worker's part of the groups."""
    batch = run.plan.collate(run.worker.part(groups), run.config.model.vision)
    return run.learner.learn(step, batch, run.maps(batch.pictures))


def _row(
    config: TrainConfig, step: int, losses: list[float], value: float, *, seconds: float
) -> dict[str, float]:
    return {
        "step": step,
        "loss": round(sum(losses) / len(losses), 4),
        "held_out_loss": round(value, 4),
        "rate": config.learning_rate * schedule(step - 1, config),
        "pictures": step * config.images_per_step,
        "session_s": round(seconds, 1),
    }


def _log(out: Path, writer: object, row: dict[str, float]) -> None:
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    for name in ("loss", "held_out_loss", "rate"):
        writer.add_scalar(name, row[name], int(row["step"]))  # type: ignore[attr-defined]
    tqdm.write(json.dumps(row))


def main(argv: Sequence[str] | None = None) -> int:
    """`ureca train CONFIG [--out DIR] [--set a.b=c]`."""
    parser = argparse.ArgumentParser(
        prog="ureca train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ureca train configs/train/nano.yaml --out runs/nano --set steps=3000",
    )
    parser.add_argument(
        "config", type=Path, help="YAML overrides of TrainConfig (see configs/train/)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/nano"),
        help="folder of this run (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one value; repeatable"
    )
    parser.add_argument(
        "--stop-after", type=int, metavar="STEP", help="stop at a step; the run can resume"
    )
    args = parser.parse_args(argv)
    config = load_config(TrainConfig, args.config, args.set)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    checkpoint = train(config, args.out, stop_after=args.stop_after)
    print(f"checkpoint: {checkpoint}\nnext: ureca export {checkpoint} -o {args.out / 'bundle'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
