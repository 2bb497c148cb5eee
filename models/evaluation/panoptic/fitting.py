"""Fits the scorer of panoptic segmentation (`models.runtime.segmentation.panoptic.scorer`).

Each candidate mask of a training picture is compared with the true segments. What it should say is
its best IoU, 0 below .5, and whether that segment is stuff. Pictures that are held out are not
used. Every data folder weighs the same.

    python -m ureca.models.evaluation.panoptic.fitting --bundle BUNDLE --data DIR [--data DIR] -o JSON
"""  # noqa: E501  (a command stands on one line)

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, hash_image_key
from ureca.models.evaluation.panoptic.cases import I64, PanopticCase, read_panoptic_cases
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.mask_head import MaskHeadSegmenter
from ureca.models.runtime.segmentation.panoptic.scorer import WEIGHTS, ScorerWeights

F32 = npt.NDArray[np.float32]
_HIDDEN, _STEPS, _BATCH, _RATE, _DECAY, _DROPOUT = 16, 2000, 2048, 3e-3, 1e-3, 0.2
_STUFF_WEIGHT = 0.3
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class FittingRows:
    """Candidates of one picture: features f32 [N, F], best IoU f32 [N], its segment stuff? [N]."""

    features: F32
    iou: F32
    stuff: F32


def collect_rows(
    segmenter: MaskHeadSegmenter, image: npt.NDArray[np.uint8], case: PanopticCase
) -> tuple[tuple[str, ...], FittingRows]:
    """Names of the features, and the candidates of one picture that are mostly on what is said."""
    logits, features = segmenter.describe_everything(segmenter.encode(image))
    masks = np.asarray(logits > 0).reshape(len(logits), -1)
    truth = _shrink(case.ids, logits.shape[1:]).ravel()
    said = truth > 0
    there = np.stack([truth == one.number for one in case.segments]).astype(np.float32)
    inside = (masks & said).astype(np.float32)
    both = inside @ there.T
    either = inside.sum(1)[:, None] + there.sum(1) - both
    iou = both / np.maximum(either, 1)
    kept = (masks.sum(1) > 0) & (inside.sum(1) * 2 >= masks.sum(1))
    is_stuff = np.array([one.stuff for one in case.segments], np.float32)
    rows = np.stack(list(features.values()), 1)
    best = iou.argmax(1)
    return tuple(features), FittingRows(rows[kept], iou.max(1)[kept], is_stuff[best][kept])


def _shrink(ids: I64, size: tuple[int, ...]) -> I64:
    nearest = cv2.resize(
        ids.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(nearest, np.int64)


def fit_scorer(
    names: tuple[str, ...], folders: Sequence[Sequence[FittingRows]], *, seed: int
) -> ScorerWeights:
    """The weights with the least cross-entropy on the rows of all folders."""
    torch.manual_seed(seed)
    features = [np.concatenate([rows.features for rows in folder]) for folder in folders]
    iou = [np.concatenate([rows.iou for rows in folder]) for folder in folders]
    stuff = [np.concatenate([rows.stuff for rows in folder]) for folder in folders]
    together = np.concatenate(features)
    mean, scale = together.mean(0), together.std(0) + 1e-6
    x = torch.from_numpy((together - mean) / scale)
    fit, kind = torch.from_numpy(np.concatenate(iou)), torch.from_numpy(np.concatenate(stuff))
    worth = torch.where(fit > 0.5, fit, 0.0)
    each = torch.cat([torch.full((len(one),), 1 / len(one)) for one in iou])
    hidden, out = nn.Linear(x.shape[1], _HIDDEN), nn.Linear(_HIDDEN, 2)
    net = nn.Sequential(hidden, nn.SiLU(), nn.Dropout(_DROPOUT), out)
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_DECAY)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    loss_of = nn.functional.binary_cross_entropy_with_logits
    for _ in tqdm(range(_STEPS), desc="fit", disable=None):
        rows = torch.multinomial(each, _BATCH, replacement=True)
        answer = net(x[rows])
        good = (fit[rows] > 0.5).float()
        loss = loss_of(answer[:, 0], worth[rows])
        loss = loss + _STUFF_WEIGHT * loss_of(answer[:, 1], kind[rows], weight=good)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
    return ScorerWeights(
        features=names,
        mean=_to_numbers(mean),
        scale=_to_numbers(scale),
        hidden=tuple(map(_to_numbers, hidden.weight.detach().numpy())),
        hidden_bias=_to_numbers(hidden.bias.detach().numpy()),
        out=tuple(map(_to_numbers, out.weight.detach().numpy())),
        out_bias=_to_numbers(out.bias.detach().numpy()),
        figures={"rows": float(len(x)), "pictures": float(sum(map(len, folders)))},
    )


def _to_numbers(values: F32) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    options = _parse(argv)
    torch.set_num_threads(1)
    segmenter = open_mask_head(options.bundle)
    names: tuple[str, ...] = ()
    folders = []
    for root in options.data:
        cases = read_panoptic_cases(
            [root], every=options.held_out_every, held_out=False, known=[root, *options.also]
        )
        if options.half:
            cases = [case for case in cases if is_first_half(case.image_key)]
        store = ImageStore([root / "images"])
        folder = []
        for case in tqdm(cases, desc=root.name, disable=None):
            if case.image_key in store:
                names, rows = collect_rows(segmenter, store.read(case.image_key), case)
                folder.append(rows)
        folders.append(folder)
    weights = fit_scorer(names, folders, seed=options.seed)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(weights), indent=0) + b"\n")
    sys.stdout.write(f"{options.out}: {weights.figures}\n")
    return 0


def is_first_half(image_key: str) -> bool:
    """Whether a picture is in the half that selection is tuned on."""
    return hash_image_key(image_key) // HELD_OUT_EVERY % 2 == 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fit the scorer of panoptic segmentation.")
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="a bundle with a mask head")
    add("--data", type=Path, action="append", required=True, help="a data folder; repeatable")
    add("--also", type=Path, action="append", default=[], help="folder with other keys of them")
    add("--half", action="store_true", help="only the first half of the pictures")
    add("--held-out-every", type=int, default=HELD_OUT_EVERY, help="[%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("-o", "--out", type=Path, default=WEIGHTS, help="the file to write [the installed one]")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
