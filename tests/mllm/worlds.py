"""Tiny models and words, made with the package's own classes: nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<image>"]
TEXTS = [
    "Name this region in a few words. Describe this region in detail.",
    "a red cup on the table, the blue mug of a man, two dogs and a white plate",
    "user assistant system",
]


def words_json() -> str:
    """A byte-level BPE with the special tokens of chat models.

    It knows only letters of its texts: even a random model must pass the node's output gate.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIALS],
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS * 8, trainer)
    return inner.to_str()


def scaled(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """Random weights large enough that different regions get different captions."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                std = 0.3 if "embed" in name else 1.6 / weight[0].numel() ** 0.5
                weight.normal_(std=std, generator=draw)
            elif "bias" in name:
                weight.normal_(std=0.1, generator=draw)
    return model


def internvl_base(
    folder, *, width=32, layers=2, heads=4, shared=2, tile=28, vocab=400, vision_width=16
):
    """An InternVL in everything but size, saved by `save_pretrained`, and its tokenizer."""
    from transformers import (
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLVisionConfig,
        Qwen2Config,
    )

    vision = InternVLVisionConfig(
        hidden_size=vision_width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * vision_width,
        image_size=tile,
        patch_size=7,
    )
    text = Qwen2Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=4096,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=SPECIALS.index("<IMG_CONTEXT>"),
        image_seq_length=(tile // 14) ** 2,
        tie_word_embeddings=False,
    )
    scaled(InternVLForConditionalGeneration(config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words_json(), encoding="utf8")
    return folder


def tiny_config(**changes):
    """Sizes for the tiny base; texts are the defaults."""
    from ureca.models.mllm.config import MaskConfig, MllmConfig, PictureConfig

    given = {
        "name": "ureca-mllm-tiny",
        "picture": PictureConfig(tile_px=28, max_tiles=2),  # the side is the base's, if it has one
        "mask": MaskConfig(num_mask_tokens=2, side_px=28),
        "max_new_tokens": 8,
    }
    return MllmConfig(**{**given, **changes})


def picture(height=90, width=120, *, seed=0):
    """A picture u8 [H, W, 3] with structure."""
    draw = np.random.default_rng(seed)
    cells = draw.integers(0, 256, (6, 8, 3)).repeat(-(-height // 6), 0).repeat(-(-width // 8), 1)
    return np.ascontiguousarray(cells[:height, :width].astype(np.uint8))


def masks(count, height=90, width=120):
    """Different boxes as masks bool [H, W]."""
    found = []
    for n in range(count):
        mask = np.zeros((height, width), np.bool_)
        y, x = 7 * n % (height - 40), 11 * n % (width - 50)
        mask[y : y + 20 + 3 * n % 17, x : x + 25 + 2 * n] = True
        found.append(mask)
    return found


def data_folder(root, *, pictures=6, per_picture=3, sizes=((100, 100), (90, 120)), **more):
    """Regions and pictures in the common format."""
    import json

    import cv2

    from ureca.protocol import rle

    (root / "images").mkdir(parents=True)
    rows = []
    for n in range(pictures):
        height, width = sizes[n % len(sizes)]
        image = picture(height, width, seed=n)
        cv2.imwrite(str(root / "images" / f"p{n}.png"), image[:, :, ::-1])
        for k, mask in enumerate(masks(per_picture, height, width)):
            ys, xs = np.nonzero(mask)
            box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
            coded = rle.encode(mask)
            rows.append(
                {
                    "region_id": f"p{n}-{k}",
                    "image_key": f"p{n}",
                    "bbox": box,
                    "rle": {"size": list(coded.size), "counts": coded.counts},
                    "expressions": ["a red cup", "the blue mug"],
                    "expressions_long": ["a white plate on the table of a man"],
                    **more,
                }
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "regions-tiny.jsonl").write_text(lines, encoding="utf8")
    return root
