"""Train a captioner: `ureca train configs/train/nano.yaml`. One recipe, readable from top to
bottom.

Reads regions and pictures, learns a tokenizer, starts the trunk from ImageNet, and writes under
`--out`: `checkpoint/` (what `ureca export` takes), `log.jsonl`, TensorBoard events, and `state/`
for resuming. Run the same command again after a kill and it goes on exactly where the last save
was.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint, save_checkpoint
from ureca.models.nano.pyramid import Raw
from ureca.models.nano.trunk import Trunk, head_conv, load_imagenet
from ureca.models.tokenizer import Tokenizer, train_tokenizer
from ureca.models.training import loop
from ureca.models.training.batch_sampler import Batch, Group, NanoPlan
from ureca.models.training.config import TrainConfig
from ureca.models.training.dataset import Region, build_regions, load_records
from ureca.models.training.distributed import Worker
from ureca.models.training.feature_source import MapSource, cached_maps, trunk_maps
from ureca.models.training.logit_prior import log_prior
from ureca.models.training.loop import Row, Run
from ureca.models.training.losses import Guides
from ureca.models.training.reward import Rewarder
from ureca.models.training.step import NanoLearner

_VALIDATION_BATCHES = 6


def train(config: TrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run the recipe; returns the checkpoint folder.

    `stop_after` ends the session early at that step with a save, as a kill would (the schedule is
    unchanged).
    """
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def build(worker: Worker, device: torch.device) -> Run[Group]:
            run = worker.in_turn(lambda: _build(config, out, worker, device))
            if not worker.leads:
                return run
            board = require("torch.utils.tensorboard", extra="train")
            writer = stack.enter_context(board.SummaryWriter(str(out / "tensorboard")))
            return replace(run, tell=lambda row: _tell(writer, row))

        return loop.train(config, out, build, stop_after=stop_after)


def _build(config: TrainConfig, out: Path, worker: Worker, device: torch.device) -> Run[Group]:
    records = load_records(config.data)
    regions = build_regions(records, config.model.vision, cache=Path(config.cache))
    held = {r.image_key for _, r in records if r.held_out(config.held_out_every)}
    seen = [r for r in regions if r.image_key not in held]
    tokenizer = _tokenizer(seen, config, out)
    model, average = _models(config)
    maps = _maps(model, records, config, device)
    guides = Guides(_prior(seen, tokenizer, config).to(device), _rewarder(seen, tokenizer, config))
    model, average = model.to(device), average.to(device)
    plan = NanoPlan(seen, tokenizer, config)
    vision = config.model.vision

    def read(groups: Sequence[Group]) -> tuple[Batch, Raw]:
        batch = plan.collate(groups, vision)
        return batch, maps(batch.pictures)

    learner = NanoLearner(model, average, config, worker=worker, guides=guides, read=read)
    validation = NanoPlan([r for r in regions if r.image_key in held], tokenizer, config)
    batches = validation.steps(0, _VALIDATION_BATCHES if worker.leads else 0)
    held_out = [validation.collate(groups, vision) for _, groups in batches]

    def row(done: int, loss: float) -> Row:
        value = learner.validate([(batch, maps(batch.pictures)) for batch in held_out])
        return _row(learner, done, loss, value)

    text = (out / TOKENIZER).read_text(encoding="utf8")
    return Run(
        learner=learner,
        plan=plan,
        title="train",
        log_every=config.evaluate_every,
        row=row,
        keep=lambda folder: _keep(learner, folder, tokenizer_json=text),
    )


def _keep(learner: NanoLearner, folder: Path, *, tokenizer_json: str) -> None:
    if learner.worker.leads:
        save_checkpoint(
            folder,
            learner.average,
            tokenizer_json=tokenizer_json,
            half=True,
            left_out=[n for n, p in learner.model.named_parameters() if not p.requires_grad],
        )


def _maps(
    model: Captioner,
    records: Sequence[tuple[int, RegionRecord]],
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Where the trunk's maps come from: the trunk that is trained, or a cache of ImageNet's."""
    images = ImageStore(Path(d.root) / "images" for d in config.data)
    if config.trunk == "trained":
        return trunk_maps(model, images, config=config, device=device)
    trunk = Trunk()
    load_imagenet(trunk, head_conv())
    return cached_maps(trunk, images, shards=_shards(records), config=config, device=device)


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


def _row(learner: NanoLearner, done: int, loss: float, held_out_loss: float) -> Row:
    config = learner.config
    return {
        "step": done,
        "loss": round(loss, 4),
        "held_out_loss": round(held_out_loss, 4),
        "rate": config.learning_rate * learner.rate_factor(done - 1),
        "pictures": done * config.images_per_step,
    }


def _tell(writer: Any, row: Row) -> None:  # tensorboard's SummaryWriter
    for name in ("loss", "held_out_loss", "rate"):
        writer.add_scalar(name, row[name], int(row["step"]))
    tqdm.write(json.dumps(row))


def main(argv: Sequence[str] | None = None) -> int:
    """`ureca train CONFIG [--out DIR] [--set a.b=c]`."""
    parser = loop.training_parser(
        "ureca train",
        __doc__,
        example="ureca train configs/train/nano.yaml --out runs/nano --set steps=3000",
        recipe="TrainConfig (see configs/train/)",
        out=Path("runs/nano"),
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
