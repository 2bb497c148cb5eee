"""The three graphs of the mask head as torch modules, and `MaskGraphs` in torch.

Export writes these modules.
All shapes are static. `segment`: canvas to maps, kernels of a grid of points, boxes of the trunk.
`prompt`: maps, points and boxes to kernels. `masks`: kernels to logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ureca.models.nano.detector import Detector
from ureca.models.nano.masks.kernels import draw
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.mask_head import GRID_STRIDE, HeadMaps, make_head_maps


class SegmentGraph(nn.Module):
    """Pixels f32 [1, 3, H, W] -> map, cells, context, kernels [1, G, 3, C + 5], scores [1, G, 3],
    and boxes [1, N, 5] (xyxy on the canvas, score), which a trunk that does not detect leaves out.
    """

    points_px: Tensor

    def __init__(self, model: MaskNetwork) -> None:
        super().__init__()
        self.model = model
        height, width = model.config.canvas_px
        y, x = (torch.arange(GRID_STRIDE / 2, side, GRID_STRIDE) for side in (height, width))
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
        self.register_buffer("points_px", points)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.trunk(pixels)
        seen = self.model.fusion(maps)
        kernels, scores = self.model.points(seen.cells, seen.context, seen.map, self.points_px)
        found = (seen.map, seen.cells, seen.context, kernels, torch.sigmoid(scores))
        if not isinstance(self.model.trunk, Detector):
            return found
        rows = self.model.trunk.detect(maps)
        best = rows[..., 4:5] * rows[..., 5:].amax(-1, keepdim=True)
        return (*found, torch.cat((rows[..., :4], best), -1))


class PromptGraph(nn.Module):
    """Maps, points f32 [1, P, 2] and boxes [1, B, 4] -> kernels and scores of both."""

    def __init__(self, model: MaskNetwork) -> None:
        super().__init__()
        self.points, self.boxes = model.points, model.boxes

    def forward(
        self, masks: Tensor, cells: Tensor, context: Tensor, points_px: Tensor, boxes_px: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kernels, scores = self.points(cells, context, masks, points_px)
        box_kernels, box_scores = self.boxes(cells, context, masks, boxes_px)
        return kernels, torch.sigmoid(scores), box_kernels, torch.sigmoid(box_scores)


class DrawGraph(nn.Module):
    """Kernels f32 [1, K, C + 5] and the map -> logits [1, K, H/4, W/4]."""

    def forward(self, kernels: Tensor, masks: Tensor) -> Tensor:
        return draw(kernels, masks)


class TorchMaskGraphs:
    """`MaskGraphs` in torch: the reference for export, and what evaluation runs."""

    def __init__(self, model: MaskNetwork) -> None:
        model.eval()
        self.canvas_px = model.config.canvas_px
        self._segment, self._prompt, self._draw = (
            SegmentGraph(model),
            PromptGraph(model),
            DrawGraph(),
        )

    @torch.inference_mode()
    def see(self, pixels: F32) -> HeadMaps:
        """See `MaskGraphs`."""
        batch = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        found = [np.ascontiguousarray(one.numpy(), np.float32) for one in self._segment(batch)]
        return make_head_maps(found, self.canvas_px)

    @torch.inference_mode()
    def make_kernels(
        self, maps: HeadMaps, points_px: F32, boxes_px: F32
    ) -> tuple[F32, F32, F32, F32]:
        """See `MaskGraphs`."""
        given = (maps.map, maps.cells, maps.context, points_px[None], boxes_px[None])
        found = [one[0].numpy() for one in self._prompt(*map(torch.from_numpy, given))]
        return found[0], found[1], found[2], found[3]

    @torch.inference_mode()
    def draw(self, maps: HeadMaps, kernels: F32) -> F32:
        """See `MaskGraphs`."""
        logits = self._draw(torch.from_numpy(kernels)[None], torch.from_numpy(maps.map))
        return np.array(logits[0].numpy(), np.float32)
