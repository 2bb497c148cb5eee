"""Trains ureca-nano: `ureca train configs/train/nano.yaml`. One recipe in one file.

It reads regions and images, trains a tokenizer, loads the trunk from ImageNet, and writes under
`--out`: `checkpoint/` (the input of `ureca export`), `log.jsonl`, TensorBoard events, and `state/`
for resuming. After a kill the same command continues exactly at the last save.
"""

from __future__ import annotations

import copy
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
from ureca.models.data.photographs import find_held_out_keys
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint, save_checkpoint
from ureca.models.nano.detector import NCNN_FILE, Detector, load_ncnn
from ureca.models.nano.network import Captioner
from ureca.models.nano.pyramid import Raw
from ureca.models.nano.trunk import Trunk, load_imagenet, make_head_conv
from ureca.models.tokenizer import Tokenizer, train_tokenizer
from ureca.models.training import loop
from ureca.models.training.batch_sampler import Batch, Group, NanoPlan
from ureca.models.training.config import TrainConfig
from ureca.models.training.dataset import Region, build_regions, load_records
from ureca.models.training.distributed import Worker
from ureca.models.training.feature_source import MapSource, make_cached_source, make_trunk_source
from ureca.models.training.features import FrozenLayers
from ureca.models.training.logit_prior import compute_log_prior
from ureca.models.training.loop import Row, Run
from ureca.models.training.losses import Guides
from ureca.models.training.nano_learner import NanoLearner
from ureca.models.training.reward import Rewarder
from ureca.models.training.rivals import load_hard_statements
from ureca.weights import cached

_VALIDATION_BATCHES = 6


def train(config: TrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run the recipe; return the checkpoint folder.

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
            return replace(run, tell=lambda row: _write_events(writer, row))

        return loop.train(config, out, build, stop_after=stop_after)


def _build(config: TrainConfig, out: Path, worker: Worker, device: torch.device) -> Run[Group]:
    records = load_records(config.data)
    regions = build_regions(records, config.model.vision, cache=Path(config.cache))
    held = {r.image_key for _, r in records if r.is_held_out(config.held_out_every)}
    unseen = held | find_held_out_keys(
        sorted({Path(d.root) for d in config.data}), every=config.held_out_every
    )
    seen = [r for r in regions if r.image_key not in unseen]
    tokenizer = _load_tokenizer(seen, config, out)
    model, average = _make_models(config)
    maps = _open_map_source(model, records, config, device)
    guides = Guides(
        _compute_prior(seen, tokenizer, config).to(device), _make_rewarder(seen, tokenizer, config)
    )
    model, average = model.to(device), average.to(device)
    statements = load_hard_statements(config.rivals, {region.image_key for region in seen})
    plan = NanoPlan(seen, tokenizer, config, statements=statements)
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
        return _make_log_row(learner, done, loss, value)

    text = (out / TOKENIZER).read_text(encoding="utf8")
    return Run(
        learner=learner,
        plan=plan,
        title="train",
        log_every=config.evaluate_every,
        row=row,
        keep=lambda folder: _write_checkpoint(learner, folder, tokenizer_json=text),
    )


def _write_checkpoint(learner: NanoLearner, folder: Path, *, tokenizer_json: str) -> None:
    if learner.worker.leads:
        save_checkpoint(
            folder,
            learner.average,
            tokenizer_json=tokenizer_json,
            half=True,
            left_out=[
                name
                for name, parameter in learner.model.named_parameters()
                if not (parameter.requires_grad or name.startswith("detector."))
            ],
        )


def _open_map_source(
    model: Captioner,
    records: Sequence[tuple[int, RegionRecord]],
    config: TrainConfig,
    device: torch.device,
) -> MapSource:
    """Return the source of the trunk's maps: the trunk in training, or a cache of ImageNet's."""
    folders = [Path(d.root) / "images" for d in config.data]  # masks alone may be a folder, too
    images = ImageStore(folder for folder in folders if folder.exists())
    if config.trunk == "trained":
        return make_trunk_source(model, images, config=config, device=device)
    trunk = Trunk()
    load_imagenet(trunk, make_head_conv())
    layers = FrozenLayers(trunk, copy.deepcopy(model.detector))
    return make_cached_source(
        layers, images, shards=_list_shards(records), config=config, device=device
    )


def _list_shards(records: Sequence[tuple[int, RegionRecord]]) -> dict[tuple[int, str], list[str]]:
    """List the image keys of every (source, shard); a picture of several sources is the first's, as
    in `NanoPlan`.
    """
    first: dict[str, tuple[int, str]] = {}
    for source, record in records:
        first.setdefault(record.image_key, (source, record.shard))
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for key in sorted(first):
        found[first[key]].append(key)
    return dict(found)


def _load_tokenizer(seen: Sequence[Region], config: TrainConfig, out: Path) -> Tokenizer:
    path = out / TOKENIZER
    given = config.tokenizer or (config.start_from and str(Path(config.start_from) / TOKENIZER))
    if given:
        shutil.copyfile(given, path)
    if not path.exists():
        train_tokenizer(_list_texts(seen), config.model.language.vocab_size).save(path)
    return Tokenizer.load(path)


def _list_texts(seen: Sequence[Region]) -> Iterator[str]:
    return (text for region in seen for text in (*region.short, *region.long))


def _compute_prior(
    seen: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig
) -> torch.Tensor:
    size = config.model.language.vocab_size
    if config.prior_weight == 0:
        return torch.zeros(size)
    counted = [region for region in seen if config.data[region.source].in_prior]
    return config.prior_weight * compute_log_prior(_list_texts(counted), tokenizer, size=size)


def _make_rewarder(
    seen: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig
) -> Rewarder | None:
    if config.reward_weight <= 0:
        return None
    phrases = [region.short or region.long for region in seen]
    return Rewarder(phrases, decode=tokenizer.decode, neighbour_weight=config.neighbour_weight)


def _make_models(config: TrainConfig) -> tuple[Captioner, Captioner]:
    torch.manual_seed(config.seed)
    model, average = Captioner(config.model), Captioner(config.model)
    model.load_imagenet()
    start = load_checkpoint(Path(config.start_from)) if config.start_from else None
    if config.model.regions.detector and not (start and start.config.regions.detector):
        published = Detector()
        load_ncnn(published, cached("yolox-nano") / NCNN_FILE)
        model.load_detector(published)
    _freeze(model, config)
    if start is not None:
        _start_from(model, start, config)
    average.load_state_dict(model.state_dict())
    for one in (
        model,
        average,
    ):  # oneDNN's backward of thin convolutions is 5 times faster in this layout
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, average.requires_grad_(requires_grad=False)


def _freeze(model: Captioner, config: TrainConfig) -> None:
    """Freeze the classifier, the detector's backbone, and the trunk as far as the configuration
    says.
    """
    for name, parameter in model.named_parameters():
        if name.startswith(("trunk.", "features.classifier.", "detector.")):
            parameter.requires_grad_(config.trunk == "trained")
    model.trunk.tail_blocks.requires_grad_(config.trunk != "frozen")


def _start_from(model: Captioner, start: Captioner, config: TrainConfig) -> None:
    """Load a checkpoint's weights. A frozen trunk stays ImageNet's, so its cache stays valid. A
    detector may be new, else it is the checkpoint's.
    """
    with_detector = replace(start.config.regions, detector=config.model.regions.detector)
    if replace(start.config, regions=with_detector) != config.model:
        raise ConfigError(
            f"{config.start_from} holds {start.config}; this recipe trains {config.model}: "
            "start from a checkpoint of the same sizes and switches"
        )
    detects = start.config.regions.detector
    frozen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not (parameter.requires_grad or (detects and name.startswith("detector.")))
    }
    model.load_state_dict({**model.state_dict(), **start.state_dict(), **frozen})


def _make_log_row(learner: NanoLearner, done: int, loss: float, held_out_loss: float) -> Row:
    config = learner.config
    return {
        "step": done,
        "loss": round(loss, 4),
        "held_out_loss": round(held_out_loss, 4),
        "rate": config.learning_rate * learner.rate_factor(done - 1),
        "pictures": done * config.images_per_step,
    }


def _write_events(writer: Any, row: Row) -> None:  # tensorboard's SummaryWriter
    for name in ("loss", "held_out_loss", "rate"):
        writer.add_scalar(name, row[name], int(row["step"]))
    tqdm.write(json.dumps(row))


def main(argv: Sequence[str] | None = None) -> int:
    """`ureca train CONFIG [--out DIR] [--set a.b=c]`; `ureca train masks CONFIG`: the mask head."""
    if argv and argv[0] == "masks":
        from ureca.models.training.masks.train import main as train_masks

        return train_masks(argv[1:])
    parser = loop.build_training_parser(
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
