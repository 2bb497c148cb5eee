"""Losses of the mask head: every pixel of every mask is a click that must bring it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ureca.models.nano.masks.config import SLOTS
from ureca.models.nano.masks.kernels import cut_at_boxes, draw
from ureca.models.nano.masks.network import MaskNetwork, Seen
from ureca.models.training.masks.samples import FREE

_IOU_WEIGHT = 0.5
_OTHER_SLOTS = 0.25
"""Weight of the IoU of the kernels that were not meant."""
_MEAN_SHARE = 0.05
"""Of all three kernels in the loss of a free mask, so that none dies."""


@dataclass(frozen=True, slots=True)
class Targets:
    """`MaskBatch` as tensors."""

    masks: Tensor
    points_px: Tensor
    boxes_px: Tensor
    slots: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Judged:
    """The loss, and mean IoUs (of the best of three clicks, of boxes) for the log."""

    loss: Tensor
    click_iou: Tensor
    box_iou: Tensor


def judge(model: MaskNetwork, seen: Seen, targets: Targets) -> Judged:
    """Loss of clicks and boxes."""
    count = targets.weights.sum().clamp_min(1e-6)
    kernels, scores = model.points(seen.cells, seen.context, seen.map, targets.points_px)
    logits = draw(kernels.flatten(1, 2), seen.map).unflatten(1, (-1, SLOTS))
    wanted = targets.masks[:, :, None].expand_as(logits)
    each, ious = compute_mask_loss(logits, wanted), compute_ious(logits, wanted)
    shares = compute_slot_shares(each, targets.slots)
    click = (each * shares).sum(-1) + _IOU_WEIGHT * compute_score_loss(scores, ious, shares)

    kernels, scores = model.boxes(seen.cells, seen.context, seen.map, targets.boxes_px)
    logits = cut_at_boxes(draw(kernels, seen.map), targets.boxes_px)
    boxed = compute_ious(logits, targets.masks)
    box = compute_mask_loss(logits, targets.masks)
    box = box + _IOU_WEIGHT * F.binary_cross_entropy_with_logits(scores, boxed, reduction="none")

    def mean(x: Tensor) -> Tensor:
        return (x * targets.weights).sum() / count

    return Judged(mean(click + box), mean(ious.amax(-1)), mean(boxed))


def compute_mask_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """2 BCE / (sqrt(area) + .05) + dice over the last two axes: small masks weigh as large ones."""
    area = wanted.mean((-2, -1))
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((-2, -1))
    inside = torch.sigmoid(logits)
    both = 2 * (inside * wanted).sum((-2, -1))
    dice = 1 - (both + 1) / (inside.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)
    return 2 * entropy / (area.sqrt() + 0.05) + dice


@torch.no_grad()
def compute_ious(logits: Tensor, wanted: Tensor) -> Tensor:
    """IoU of the masks over the last two axes."""
    inside, wanted = logits > 0, wanted > 0.5
    both = (inside & wanted).sum((-2, -1))
    return both / (inside | wanted).sum((-2, -1)).clamp_min(1)


@torch.no_grad()
def compute_slot_shares(losses: Tensor, slots: Tensor) -> Tensor:
    """Weights [B, K, 3] of the three kernels: the told one, or mostly the one that fits best."""
    best = torch.where(slots == FREE, losses.argmin(-1), slots)
    shares = F.one_hot(best, SLOTS).to(losses)
    free = (slots == FREE)[..., None]
    return torch.where(free, shares * (1 - _MEAN_SHARE) + _MEAN_SHARE / SLOTS, shares)


def compute_score_loss(scores: Tensor, ious: Tensor, shares: Tensor) -> Tensor:
    """BCE of IoU logits [B, K, 3] to the true IoUs; kernels that were not meant weigh less."""
    each = F.binary_cross_entropy_with_logits(scores, ious, reduction="none")
    return (each * (_OTHER_SLOTS + (1 - _OTHER_SLOTS) * shares)).sum(-1)


def compute_proposal_loss(have: Tensor, want: Tensor) -> Tensor:
    """How far a trained trunk's boxes and scores [B, cells, 85] are from the published trunk's.

    Scores of every cell (BCE), boxes where the published trunk sees something; per thing seen.
    """
    sure = want[..., 4] * want[..., 5:].amax(-1)
    seen = sure.sum().clamp_min(1.0)
    scores = F.binary_cross_entropy(
        have[..., 4:].clamp(1e-5, 1 - 1e-5), want[..., 4:], reduction="sum"
    )
    floor = F.binary_cross_entropy(
        want[..., 4:].clamp(1e-5, 1 - 1e-5), want[..., 4:], reduction="sum"
    )
    boxes = F.smooth_l1_loss(have[..., :4], want[..., :4], reduction="none").sum(-1)
    return ((scores - floor) + (boxes * sure).sum()) / seen
