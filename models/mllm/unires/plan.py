"""Memory of training UniRES++: `ureca mllm unires plan`. Computed from shapes, not measured.

Captioners are those of `ureca mllm plan` (InternVL 2.5 of 1B, 2B and 8B, frozen in bfloat16); the
high-resolution tower is a ConvNeXt-L and the mask decoder that of SAM ViT-H, as in LISA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ureca.extras import require
from ureca.models.mllm.memory_estimate import SHAPES, BaseShape
from ureca.models.mllm.staged.memory import StagePlan, format_plans
from ureca.models.mllm.unires.config import FlowConfig
from ureca.models.mllm.unires.flow import GranularFlow
from ureca.models.mllm.unires.network import MaskPrompt

_IMAGE_TOKENS, _BOXES = 256, 64
_PROMPT_TOKENS, _ANSWERS = 16, 2
"""Tokens of one question, and of one answer."""
_SAM_SIDE, _SAM_WIDTH, _SAM_LAYERS, _FACTOR = 64, 256, 2, 20


def make_plans(*, texts: int = 8, rank: int = 8) -> list[StagePlan]:
    """Return both stages of every captioner, for `texts` of one picture behind one prefix."""
    package = require("transformers", extra="mllm")
    with torch.device("meta"):
        tower = package.ConvNextModel(
            package.ConvNextConfig(hidden_sizes=[192, 384, 768, 1536], depths=[3, 3, 27, 3])
        )
        sam = package.SamModel(_make_vit_h(package))
    seen = _count(tower) + _count(sam)
    decoder = _count(sam.mask_decoder)
    return [
        _make_plan(shape, stage, texts=texts, rank=rank, seen=seen, decoder=decoder)
        for shape in SHAPES
        for stage in (1, 2)
    ]


def _make_vit_h(package: Any) -> Any:
    vision = {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    }
    return package.SamConfig(vision_config=vision)


def _count(module: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in module.parameters()))


def _make_plan(
    shape: BaseShape, stage: int, *, texts: int, rank: int, seen: float, decoder: float
) -> StagePlan:
    with torch.device("meta"):
        fresh = _count(GranularFlow(1536, FlowConfig(), width=shape.width))
        fresh += _count(MaskPrompt(shape.width, _SAM_WIDTH)) + 4 * shape.width
    captioner = shape.language + shape.vision + shape.projector
    more = shape.count_lora_parameters(rank) + decoder if stage == 2 else 0.0
    masks = texts * _SAM_SIDE**2 * _SAM_WIDTH * _FACTOR * _SAM_LAYERS
    towers = seen - (decoder if stage == 2 else 0.0)
    return StagePlan(
        name=shape.name,
        stage=stage,
        frozen=captioner + towers,
        frozen_bytes=2 * captioner + 4 * towers,
        learning=fresh + more,
        width=shape.width,
        layers=shape.layers,
        tokens=_IMAGE_TOKENS + _BOXES + texts * (_PROMPT_TOKENS + _ANSWERS),
        answers=texts * _ANSWERS,
        vocab=shape.vocab,
        maps=float(masks),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm unires plan`."""
    parser = argparse.ArgumentParser(
        prog="ureca mllm unires plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ureca mllm unires plan --texts 16",
    )
    parser.add_argument("--texts", type=int, default=8, help="of one picture (%(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters (%(default)s)")
    options = parser.parse_args(argv)
    table = format_plans(make_plans(texts=options.texts, rank=options.rank))
    sys.stdout.write(f"computed, not measured; one worker, one picture a pass\n\n{table}\n")
    return 0
