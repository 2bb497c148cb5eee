"""Train the mask head: `ureca train masks configs/train/masks-a.yaml`.

Stage A trains what is behind a frozen trunk, stage B the trunk's end, then all of it. Writes under
`--out`: `checkpoint/`, `log.jsonl` and `state/` for resuming. Run the same command again after a
kill and it goes on exactly where the last save was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ureca.config import load_config
from ureca.errors import ConfigError, MissingExtraError
from ureca.models.nano.detector import Detector, Maps
from ureca.models.nano.masks.checkpoint import (
    load_mask_checkpoint,
    load_published_trunk,
    save_mask_checkpoint,
)
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.training import loop
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Row, Run
from ureca.models.training.masks.config import MaskTrainConfig
from ureca.models.training.masks.frozen_trunk import open_onnx_trunk
from ureca.models.training.masks.mask_learner import MaskLearner, freeze_trunk
from ureca.models.training.masks.plan import MaskBatch, MaskPlan, Visit
from ureca.models.training.masks.samples import MaskedPicture, open_images, read_pictures


def train(config: MaskTrainConfig, out: Path, *, stop_after: int | None = None) -> Path:
    """Run the recipe; returns the checkpoint folder. `stop_after`: see `loop.train`."""
    out.mkdir(parents=True, exist_ok=True)

    def build(worker: Worker, device: torch.device) -> Run[Visit]:
        return worker.in_turn(lambda: _build(config, out, worker, device))

    return loop.train(config, out, build, stop_after=stop_after)


def _build(config: MaskTrainConfig, out: Path, worker: Worker, device: torch.device) -> Run[Visit]:
    seen, held_out = read_pictures(config)
    images = open_images(config)
    plan = MaskPlan(seen, images, config)
    model, average = (one.to(device) for one in _make_models(config))
    frozen = _open_frozen(average, config, out) if device.type == "cpu" else None
    learner = MaskLearner(
        model,
        average,
        config,
        worker=worker,
        device=device,
        read=plan.collate,
        frozen=frozen,
        published=_load_published(config, device),
    )
    batches = _make_validation(held_out, MaskPlan(held_out, images, config), config)

    def row(done: int, loss: float) -> Row:
        means, held = learner.take_means(), learner.validate(batches)
        values = {
            "loss": loss,
            **means,
            "held_out_loss": float(held.loss),
            "held_out_click_iou": float(held.click_iou),
            "held_out_box_iou": float(held.box_iou),
        }
        rate = config.learning_rate * learner.rate_factor(done - 1)
        rounded = {name: round(value, 4) for name, value in values.items()}
        pictures = done * config.images_per_step
        return {"step": done, "pictures": pictures, "rate": rate, **rounded}

    return Run(
        learner=learner,
        plan=plan,
        title="train masks",
        log_every=config.log_every,
        row=row,
        keep=lambda folder: keep_average(learner, folder),
        tell=lambda row: tqdm.write(json.dumps(row)),
    )


def _open_frozen(
    model: MaskNetwork, config: MaskTrainConfig, out: Path
) -> Callable[[Tensor], Maps] | None:
    """The trunk in ONNX Runtime where that is installed; torch is slower and gives the same."""
    if config.trunk != "frozen":
        return None
    try:
        return open_onnx_trunk(model.trunk, config.window_px, threads=config.threads, folder=out)
    except MissingExtraError:
        return None


def _load_published(config: MaskTrainConfig, device: torch.device) -> Detector | None:
    """The detector as it was published, where its trunk is trained."""
    if config.trunk == "frozen" or config.model.trunk != "yolox-nano":
        return None
    model = MaskNetwork(config.model)
    load_published_trunk(model, config.trunk_weights)
    assert isinstance(model.trunk, Detector)
    return model.trunk.eval().requires_grad_(requires_grad=False).to(device)


def keep_average(learner: MaskLearner, folder: Path) -> None:
    """Write the moving average; a trunk that was not trained is left out."""
    if learner.worker.leads:
        frozen = [n for n in learner.average.state_dict() if n.startswith("trunk.")]
        left_out = frozen if learner.config.trunk == "frozen" else []
        save_mask_checkpoint(folder, learner.average, left_out=left_out)


def _make_validation(
    pictures: Sequence[MaskedPicture], plan: MaskPlan, config: MaskTrainConfig
) -> list[MaskBatch]:
    """The first held-out pictures of every source in turn, whole and unchanged."""
    by_source: dict[int, list[int]] = {}
    for number, picture in enumerate(pictures):
        by_source.setdefault(picture.source, []).append(number)
    longest = max(map(len, by_source.values()), default=0)
    turns = [rows[n] for n in range(longest) for rows in by_source.values() if n < len(rows)]
    size = config.images_per_step
    chosen = turns[: size * config.validation_batches]
    batches = [chosen[n : n + size] for n in range(0, len(chosen), size)]
    return [plan.collate([Visit(n, 0) for n in batch]) for batch in batches]


def _make_models(config: MaskTrainConfig) -> tuple[MaskNetwork, MaskNetwork]:
    torch.manual_seed(config.seed)
    model, average = MaskNetwork(config.model), MaskNetwork(config.model)
    load_published_trunk(model, config.trunk_weights)
    if config.start_from:
        start = load_mask_checkpoint(Path(config.start_from), trunk_weights=config.trunk_weights)
        if start.config != config.model:
            raise ConfigError(
                f"{config.start_from} holds {start.config}; this recipe trains {config.model}"
            )
        model.load_state_dict(start.state_dict())
    freeze_trunk(model, config)
    average.load_state_dict(model.state_dict())
    for one in (model, average):
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, average.requires_grad_(requires_grad=False)


def main(argv: Sequence[str] | None = None) -> int:
    """`ureca train masks CONFIG [--out DIR] [--set a.b=c]`."""
    parser = loop.build_training_parser(
        "ureca train masks",
        __doc__,
        example="ureca train masks configs/train/masks-a.yaml --out runs/masks-a",
        recipe="MaskTrainConfig (see configs/train/)",
        out=Path("runs/masks"),
    )
    args = parser.parse_args(argv)
    config = load_config(MaskTrainConfig, args.config, args.set)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    checkpoint = train(config, args.out, stop_after=args.stop_after)
    print(f"checkpoint: {checkpoint}\nnext: ureca eval masks {checkpoint} --data ../shared/data")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
