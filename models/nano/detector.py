"""YOLOX-nano (arXiv 2107.08430) as a trunk and as a source of box proposals.

Batch normalisation is folded into the convolutions in the published file, so the network is
convolutions and SiLU only. Modules are created in the order of that file (ncnn), which holds one
entry per convolution: tag, float16 weights, float32 bias.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.errors import WeightsError

NCNN_FILE = "yolox-nano.bin"
NCNN_SHA256 = "dcf9487b7ff9c5e831eb77b7187f5324a21bcb732e8f8415787cb2603f85e3e8"
"""Of the file of nihui/ncnn-android-yolox @ 632f140205af."""
CLASSES = 80
_HEAD = 64
_HALF_TAG = 0x01306B47
Maps = tuple[Tensor, Tensor, Tensor, Tensor]
"""Features [B, C, h, w] at strides 4, 8, 16 and 32."""


class Conv(nn.Sequential):
    """Convolution with bias, then SiLU."""

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int = 1, stride: int = 1
    ) -> None:
        conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2)
        super().__init__(conv, nn.SiLU())


class Separable(nn.Sequential):
    """Depthwise 3x3, then 1x1, SiLU behind each."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in)
        super().__init__(depthwise, nn.SiLU(), Conv(channels_in, channels_out))


class Bottleneck(nn.Module):
    """1x1 and separable 3x3, added to the input where `skip`."""

    def __init__(self, channels: int, *, skip: bool) -> None:
        super().__init__()
        self.narrow, self.mix, self.skip = (
            Conv(channels, channels),
            Separable(channels, channels),
            skip,
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(self.narrow(x))
        return x + h if self.skip else h


class CrossStage(nn.Module):
    """Cross-stage partial layer: one half goes through bottlenecks, the other passes by."""

    def __init__(
        self, channels_in: int, channels_out: int, *, repeats: int = 1, skip: bool = False
    ) -> None:
        super().__init__()
        half = channels_out // 2
        self.main, self.pass_by = Conv(channels_in, half), Conv(channels_in, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, skip=skip) for _ in range(repeats)))
        self.join = Conv(channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.blocks(self.main(x)), self.pass_by(x)), 1))


class PyramidPool(nn.Module):
    """Max-pools of three sizes beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.join = Conv(channels, channels // 2), Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        pools = (F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (5, 9, 13))
        return self.join(torch.cat((x, *pools), 1))


class Backbone(nn.Module):
    """Pixels to features at strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(12, 16, kernel=3)
        self.stage4 = nn.Sequential(Separable(16, 32, stride=2), CrossStage(32, 32, skip=True))
        self.stage8 = nn.Sequential(
            Separable(32, 64, stride=2), CrossStage(64, 64, repeats=3, skip=True)
        )
        self.stage16 = nn.Sequential(
            Separable(64, 128, stride=2), CrossStage(128, 128, repeats=3, skip=True)
        )
        self.stage32 = nn.Sequential(
            Separable(128, 256, stride=2), PyramidPool(256), CrossStage(256, 256)
        )

    def forward(self, pixels: Tensor) -> Maps:
        quarter = self.stage4(self.stem(fold_to_depth(pixels)))
        fine = self.stage8(quarter)
        middle = self.stage16(fine)
        return quarter, fine, middle, self.stage32(middle)


class Neck(nn.Module):
    """Path aggregation: down to stride 8 and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow32, self.down16 = Conv(256, 128), CrossStage(256, 128)
        self.narrow16, self.down8 = Conv(128, 64), CrossStage(128, 64)
        self.step16, self.up16 = Separable(64, 64, stride=2), CrossStage(128, 128)
        self.step32, self.up32 = Separable(128, 128, stride=2), CrossStage(256, 256)

    def forward(self, maps: Maps) -> Maps:
        quarter, fine, middle, coarse = maps
        top = self.narrow32(coarse)
        between = self.narrow16(self.down16(torch.cat((_upsample(top), middle), 1)))
        out8 = self.down8(torch.cat((_upsample(between), fine), 1))
        out16 = self.up16(torch.cat((self.step16(out8), between), 1))
        out32 = self.up32(torch.cat((self.step32(out16), top), 1))
        return quarter, out8, out16, out32


class LevelHead(nn.Module):
    """Class scores, box and objectness of every cell of one stride."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = Conv(channels, _HEAD)
        self.class_convs = nn.Sequential(Separable(_HEAD, _HEAD), Separable(_HEAD, _HEAD))
        self.classes = nn.Conv2d(_HEAD, CLASSES, 1)
        self.box_convs = nn.Sequential(Separable(_HEAD, _HEAD), Separable(_HEAD, _HEAD))
        self.box, self.objectness = nn.Conv2d(_HEAD, 4, 1), nn.Conv2d(_HEAD, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        boxes = self.box_convs(x)
        scores = torch.sigmoid(
            torch.cat((self.objectness(boxes), self.classes(self.class_convs(x))), 1)
        )
        return torch.cat((self.box(boxes), scores), 1)


class Detector(nn.Module):
    """YOLOX-nano. Input: f32 [B, 3, H, W], ImageNet-normalised RGB, sides multiples of 32."""

    channels = (32, 64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck = Backbone(), Neck()
        self.heads = nn.ModuleList(LevelHead(channels) for channels in self.channels[1:])

    def forward(self, pixels: Tensor) -> Maps:
        """Maps at strides 4, 8, 16, 32 with 32, 64, 128 and 256 channels."""
        return self.neck(self.backbone(pixels))

    def detect(self, maps: Maps) -> Tensor:
        """f32 [B, cells, 85] in pixels of the input: box xyxy, objectness, 80 class scores."""
        rows = [
            _to_pixels(head(m), 8 << n) for n, (head, m) in enumerate(_pair_heads(self.heads, maps))
        ]
        return torch.cat(rows, 1)

    def answers(self, maps: Maps) -> Tensor:
        """The same rows as the heads give them: offsets and log sizes in strides, then scores."""
        return torch.cat(
            [head(m).flatten(2).transpose(1, 2) for head, m in _pair_heads(self.heads, maps)], 1
        )


def fold_to_depth(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 12, H/2, W/2]: (row, column) parity (0, 0), (1, 0), (0, 1), (1, 1)."""
    return torch.cat(
        [pixels[..., row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))], 1
    )


def load_ncnn(detector: Detector, path: Path) -> None:
    """Fill a detector from the published file. Raises `WeightsError` when it is another file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read {path}: {error}; bring it with `ureca weights get yolox-nano`"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != NCNN_SHA256:
        raise WeightsError(f"{path} has sha256 {found}, expected {NCNN_SHA256}: YOLOX-nano of ncnn")
    convs = [module for module in detector.modules() if isinstance(module, nn.Conv2d)]
    entries = _read_entries(data, [tuple(conv.weight.shape) for conv in convs])
    with torch.no_grad():
        for conv, (weight, bias) in zip(convs, entries, strict=True):
            assert conv.bias is not None
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)


def _read_entries(data: bytes, shapes: list[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    at = 0
    for shape in shapes:
        (tag,) = struct.unpack_from("<I", data, at)
        if tag != _HALF_TAG:
            raise WeightsError(f"byte {at}: expected a float16 entry, got tag {tag:#x}")
        count = int(np.prod(shape))
        weight = np.frombuffer(data, "<f2", count, at + 4).astype(np.float32).reshape(shape)
        at += 4 + (2 * count + 3) // 4 * 4
        bias = np.frombuffer(data, "<f4", shape[0], at).copy()
        at += 4 * shape[0]
        yield torch.from_numpy(weight), torch.from_numpy(bias)
    if at != len(data):
        raise WeightsError(f"expected {at} bytes of weights, got {len(data)}")


def _pair_heads(heads: nn.ModuleList, maps: Maps) -> Iterator[tuple[nn.Module, Tensor]]:
    return zip(heads, maps[1:], strict=True)


def _to_pixels(answer: Tensor, stride: int) -> Tensor:
    height, width = answer.shape[2:]
    rows = torch.arange(height, device=answer.device, dtype=answer.dtype)
    columns = torch.arange(width, device=answer.device, dtype=answer.dtype)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(1, -1, 2)
    flat = answer.flatten(2).transpose(1, 2)
    centre = (flat[..., :2] + grid) * stride
    half = torch.exp(flat[..., 2:4]) * (stride / 2)
    return torch.cat((centre - half, centre + half, flat[..., 4:]), -1)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
