"""Tiny random parts of FineCaption, by the package's own classes: nothing is downloaded."""

from __future__ import annotations

import torch
from worlds import scaled, words_json

CLIP_PX, TILE_PX = 24, 128
TOKENS = (TILE_PX // 32) ** 2


def clip_model(layers=3, width=16):
    """CLIP's vision part: 3 x 3 patches of 8 px."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=CLIP_PX,
        patch_size=8,
    )
    return CLIPVisionModel(config)


def convnext_model(kind="ConvNext"):
    """A ConvNeXt of four stages: stride 32."""
    import transformers as package

    config = getattr(package, f"{kind}Config")(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])
    return getattr(package, f"{kind}Model")(config)


def sam_model():
    """SAM's encoder: 8 x 8 cells, twice the grid's side."""
    from transformers import SamVisionConfig, SamVisionModel

    config = SamVisionConfig(
        hidden_size=8,
        output_channels=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE_PX,
        patch_size=16,
        window_size=2,
        global_attn_indexes=[1],
        mlp_dim=16,
    )
    return SamVisionModel(config)


def language_model():
    """A Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def tiny_parts(root):
    """Folders of all parts by name, as `FineCaptionParts` takes them."""
    torch.manual_seed(0)
    made = {
        "language": language_model(),
        "clip": clip_model(),
        "convnext": convnext_model(),
        "sam": sam_model(),
    }
    for name, model in made.items():
        scaled(model).save_pretrained(root / name)
    (root / "language" / "tokenizer.json").write_text(words_json(), encoding="utf8")
    return {name: str(root / name) for name in made}


def joined(out, parts, *, large=("convnext", "sam"), **changes):
    """A base of the parts, with the named encoders of the large picture."""
    from ureca.models.mllm.finecaption.join import FineCaptionParts, join_finecaption

    chosen = {n: f for n, f in parts.items() if n in ("language", "clip", *large)}
    sides = {"tile_px": TILE_PX if large else CLIP_PX, "dtype": "fp32"}
    return join_finecaption(out, FineCaptionParts(**{**chosen, **sides, **changes}))


def draw_mask_layer(model, *, seed=1):
    """A mask convolution that learnt: not zero any more."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.mask_convolution.weight.normal_(std=0.3, generator=draw)
    return model
