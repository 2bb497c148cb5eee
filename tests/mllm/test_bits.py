"""Weights in 8 and 4 bits through `bitsandbytes`, whose CPU build runs without a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from worlds import internvl_base, masks, picture, tiny_config

from ureca.datatypes import RegionInput, RowDone
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    load_checkpoint,
    save_parts,
    write_config,
)
from ureca.models.mllm.checkpoints.wrap import wrap_base
from ureca.models.mllm.config import LoraConfig
from ureca.models.mllm.mllm_engine import open_checkpoint
from ureca.models.mllm.network.lora import add_lora, get_lora_tensors

for package in ("bitsandbytes", "accelerate"):
    pytest.importorskip(package, reason="int8 and int4 (`mllm-bits`) are NOT PROVEN here")

KINDS = ["int8", "int4"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """4-bit weights come in blocks of 64, so the layers must be that wide."""
    folder = tmp_path_factory.mktemp("bits")
    base = internvl_base(folder / "base", width=64, vision_width=64)
    return wrap_base(base, folder / "checkpoint", tiny_config())


def hidden(model, *, seed=0):
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return model(x.to(model.dtype), torch.ones(1, 9, dtype=torch.long)).float().flatten()


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize(("kind", "least", "size"), [("int8", 0.99, 1.0), ("int4", 0.85, 0.5)])
def test_few_bits_take_little_room_and_say_nearly_the_same(wide, kind, least, size):
    whole, few = load_checkpoint(wide, precision="fp32"), load_checkpoint(wide, precision=kind)
    near = cosine(hidden(whole), hidden(few))
    assert least < near < 0.999999, "near, and not the same weights"
    assert near > cosine(hidden(whole), hidden(few, seed=1)) + 0.2
    weight = few.language.layers[0].mlp.up_proj.weight
    assert weight.numel() * weight.element_size() == size * 64 * 128


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_stay_beside_weights_of_few_bits(wide, tmp_path, kind):
    model = load_checkpoint(wide, precision="fp32")
    lora = LoraConfig(rank=4, alpha=8, dropout=0.0)
    add_lora(model.language, lora)
    with torch.no_grad():
        for tensor in get_lora_tensors(model.language).values():
            tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    config = replace(model.config, lora=lora, base=str(wide / "base"))
    save_parts(tmp_path, model, config=config, tokenizer=wide / TOKENIZER)
    few = load_checkpoint(tmp_path, precision=kind)
    assert len(get_lora_tensors(few.language)) == 28
    merged, bare = load_checkpoint(tmp_path, precision="fp32"), load_checkpoint(wide)
    assert cosine(hidden(few), hidden(merged)) > cosine(hidden(few), hidden(bare)) + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_captions_with_few_bits(wide, tmp_path, kind):
    model = load_checkpoint(wide, precision="fp32")
    config = replace(model.config, base=str(wide / "base"), precision=kind)
    save_parts(tmp_path, model, config=config, tokenizer=wide / TOKENIZER)
    write_config(tmp_path, config)
    engine = open_checkpoint(tmp_path, device="cpu")
    frame = engine.encode(picture())
    events = engine.caption(frame, [RegionInput(m, max_new_tokens=6) for m in masks(3)])
    rows = {event.row: event for event in events if isinstance(event, RowDone)}
    assert sorted(rows) == [0, 1, 2]
    assert {row.stop for row in rows.values()} <= {"eos", "length"}
