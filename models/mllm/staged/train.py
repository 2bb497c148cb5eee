"""The part of a training command that Pix2Cap and UniRES++ share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ureca.config import load_config, to_plain
from ureca.models.mllm.staged.config import StageConfig
from ureca.models.mllm.staged.learner import StageLearner, StageTask
from ureca.models.mllm.staged.pictures import PicturePlan, PictureRows
from ureca.models.training import loop
from ureca.models.training.distributed import Worker
from ureca.models.training.loop import Run

Config = TypeVar("Config", bound=StageConfig)


def make_run(
    config: StageConfig,
    out: Path,
    model: nn.Module,
    task: StageTask,
    pictures: Sequence[PictureRows],
    *,
    worker: Worker,
    title: str,
    slow: dict[str, float],
    keep: Callable[[Path], None],
) -> Run[PictureRows]:
    """Build the run of a model whose parts are frozen as its stage says. The leader writes the
    names of all trained parameters, and the settings.
    """
    learner = StageLearner(model, task, config, worker=worker, slow=slow)
    if worker.leads:
        out.mkdir(parents=True, exist_ok=True)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        (out / "trainable.txt").write_text("\n".join(names) + "\n")
        (out / "config.json").write_text(json.dumps(to_plain(config), indent=2) + "\n")

    def write(folder: Path) -> None:
        if worker.leads:
            keep(folder)

    return Run(
        learner=learner,
        plan=PicturePlan(pictures, config),
        title=title,
        log_every=config.log_every,
        row=lambda done, loss: _make_log_row(learner, done, loss),
        keep=write,
    )


def _make_log_row(learner: StageLearner, done: int, loss: float) -> dict[str, float]:
    config = learner.config
    rate = config.learning_rate * learner.rate_factor(done - 1)
    return {"step": done, "loss": loss, "rate": rate, **learner.last}


def run_command(
    kind: type[Config],
    argv: Sequence[str] | None,
    *,
    prog: str,
    about: str | None,
    example: str,
    recipe: str,
    train: Callable[..., Path],
    open_model: Callable[[Any], nn.Module],
) -> int:
    """Run a training command: `--list` prints the trained parameters of `open_model`, else
    `train(config, out, stop_after=…)` runs the stage.
    """
    parser = loop.build_training_parser(
        prog, about, example=example, recipe=recipe, out=Path("runs") / prog.split()[-2]
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of all trained parameters, and end"
    )
    args = parser.parse_args(argv)
    config = load_config(kind, args.config, args.set)
    if args.list:
        for name, parameter in open_model(config).named_parameters():
            if parameter.requires_grad:
                print(f"{parameter.numel():>12,}  {name}")  # noqa: T201
        return 0
    checkpoint = train(config, args.out, stop_after=args.stop_after)
    if os.environ.get("RANK", "0") == "0":
        print(f"checkpoint: {checkpoint}")  # noqa: T201
    return 0
