"""Memory of training Pix2Cap: `ureca mllm pix2cap plan`. Computed from shapes, not measured.

Parameters are counted on models without weights, of the published sizes: Mask2Former with Swin-L
(200 queries, 133 classes), the caption decoder of the paper's size, and one of SmolLM2-135M's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ureca.extras import require
from ureca.models.mllm.pix2cap.config import DecoderConfig, Pix2CapConfig, Pix2CapTrainConfig
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.task import freeze_pix2cap
from ureca.models.mllm.staged.memory import StagePlan, format_plans
from ureca.models.mllm.training.config import MllmDataConfig

_SEGMENTS, _WORDS = 8, 32
"""Segments of a picture and tokens of a caption in Pix2Cap-COCO (8.1 and 22.9 words)."""
_LEVELS, _FACTOR = (8, 16, 32), 20
"""Strides of the maps between which the pixel decoder attends, and what one layer keeps."""


def make_plans(*, side_px: int = 1024) -> list[StagePlan]:
    """Return both stages with both decoders, for pictures of `side_px`."""
    package = require("transformers", extra="mllm")
    sizes = {
        "Swin-L + 6 layers of 768": _make_decoder(package, DecoderConfig(), vocab=30_522),
        "Swin-L + SmolLM2-135M": package.LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
    }
    plans = []
    for name, language in sizes.items():
        with torch.device("meta"):
            model = Pix2Cap(
                _make_swin_l(package), package.LlamaForCausalLM(language), Pix2CapConfig()
            )
        plans += [_make_plan(name, model, stage, side_px) for stage in (1, 2)]
    return plans


def _make_swin_l(package: Any) -> Any:
    swin = package.SwinConfig(
        image_size=384,
        embed_dim=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = package.Mask2FormerConfig(backbone_config=swin, num_queries=200, num_labels=133)
    return package.Mask2FormerForUniversalSegmentation(config)


def _make_decoder(package: Any, decoder: DecoderConfig, *, vocab: int) -> Any:
    return package.LlamaConfig(
        vocab_size=vocab,
        hidden_size=decoder.width,
        intermediate_size=4 * decoder.width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
    )


def _make_plan(name: str, model: Pix2Cap, stage: int, side_px: int) -> StagePlan:
    data = (MllmDataConfig(root="."),)
    freeze_pix2cap(model, Pix2CapTrainConfig(data=data, start_from="", stage=stage))  # type: ignore[arg-type]
    counts = {True: 0.0, False: 0.0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    language = model.language.config
    words = _SEGMENTS * (_WORDS + 2)
    own = words * language.hidden_size * _FACTOR * language.num_hidden_layers
    return StagePlan(
        name=name,
        stage=stage,
        frozen=counts[False],
        frozen_bytes=4 * counts[False],
        learning=counts[True],
        answers=words,
        vocab=language.vocab_size,
        maps=own + (_count_maps(model, side_px) if stage == 2 else 0.0),
    )


def _count_maps(model: Pix2Cap, side_px: int) -> float:
    """Numbers that the segmenter's own layers keep: none of them is recomputed."""
    config = model.segmenter.config
    cells = sum((side_px // stride) ** 2 for stride in _LEVELS)
    pixels = cells * config.feature_size * _FACTOR * config.encoder_layers
    fine = (side_px // 4) ** 2
    masks = fine * (config.num_queries * (config.decoder_layers + 1) + 3 * config.mask_feature_size)
    return float(pixels + masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm pix2cap plan`."""
    parser = argparse.ArgumentParser(
        prog="ureca mllm pix2cap plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ureca mllm pix2cap plan --side-px 800",
    )
    parser.add_argument("--side-px", type=int, default=1024, help="side of pictures (%(default)s)")
    options = parser.parse_args(argv)
    table = format_plans(make_plans(side_px=options.side_px))
    sys.stdout.write(f"computed, not measured; one worker, one picture a pass\n\n{table}\n")
    return 0
