"""Universal segmenters of `transformers`, tiny and random, and pictures with named segments."""

from __future__ import annotations

import json

import cv2
import numpy as np
import torch
from worlds import picture, words_json

LABELS = ("cup", "dog", "grass", "wall")
_SWIN = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_SMALL = {
    "encoder_feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 32,
    "num_queries": 6,
    "train_num_points": 64,
}


def _labels():
    names = dict(enumerate(LABELS))
    return {"id2label": names, "label2id": {name: n for n, name in names.items()}}


def make_mask2former(package):
    config = package.Mask2FormerConfig(
        backbone_config=package.SwinConfig(**_SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        **_SMALL,
        **_labels(),
    )
    return package.Mask2FormerForUniversalSegmentation(config)


def make_maskformer(package):
    decoder = package.DetrConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=6,
        backbone_config=package.ResNetConfig(),
    )
    config = package.MaskFormerConfig(
        backbone_config=package.SwinConfig(**_SWIN),
        fpn_feature_size=32,
        mask_feature_size=32,
        decoder_config=decoder,
        **_labels(),
    )
    return package.MaskFormerForInstanceSegmentation(config)


def make_oneformer(package):
    config = package.OneFormerConfig(
        backbone_config=package.SwinConfig(**_SWIN),
        hidden_dim=32,
        mask_dim=32,
        conv_dim=32,
        query_dec_layers=1,
        text_encoder_width=16,
        text_encoder_context_length=8,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=400,
        text_encoder_n_ctx=2,
        task_seq_len=8,
        is_training=False,
        **_SMALL,
        **_labels(),
    )
    return package.OneFormerForUniversalSegmentation(config)


def make_eomt(package):
    config = package.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        num_queries=6,
        num_blocks=2,
        mlp_ratio=2,
        train_num_points=64,
        **_labels(),
    )
    return package.EomtForUniversalSegmentation(config)


MAKERS = {
    "mask2former": make_mask2former,
    "maskformer": make_maskformer,
    "oneformer": make_oneformer,
    "eomt": make_eomt,
}


def save_segmenter(kind, folder):
    """A segmenter whose queries differ; OneFormer's folder has a tokenizer, too."""
    import transformers

    torch.manual_seed(0)
    model = MAKERS[kind](transformers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and ("quer" in name or "class_predictor" in name):
                weight.mul_(3.0 / weight.std().clamp_min(1e-3) ** 0.5)
    model.save_pretrained(folder)
    if kind == "oneformer":
        (folder / "tokenizer.json").write_text(words_json(), encoding="utf8")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def segments_folder(root, *, pictures=4, sizes=((64, 96), (96, 64))):
    """Pictures of which every pixel belongs to one of four captioned segments."""
    from ureca.models.data.regions import RegionRecord
    from ureca.protocol import rle

    (root / "images").mkdir(parents=True)
    rows = []
    for n in range(pictures):
        height, width = sizes[n % len(sizes)]
        image = picture(height, width, seed=n)
        cv2.imwrite(str(root / "images" / f"s{n}.png"), image[:, :, ::-1])
        ids = (np.arange(height)[:, None] * 2 // height) * 2 + np.arange(width) * 2 // width
        for k, name in enumerate(LABELS):
            mask = np.asarray(ids == k)
            record = RegionRecord(
                region_id=f"s{n}-{k}",
                image_key=f"s{n}",
                shard="",
                source="tiny",
                height=height,
                width=width,
                counts=rle.encode(mask).counts,
                box_xywh_px=(0.0, 0.0, 1.0, 1.0),
                category=name,
                long=(f"a {'red' if k % 2 else 'blue'} {name} on the table",),
                stuff=k > 1,
            )
            rows.append(record.to_json())
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "regions-tiny.jsonl").write_text(lines, encoding="utf8")
    return root
