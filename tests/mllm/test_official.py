"""The published layout: every tensor goes where it belongs, and nothing is guessed in silence."""

from __future__ import annotations

import json

import numpy as np
import official_layout as official
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from worlds import masks, picture, words_json

from ureca import cli
from ureca.errors import WeightsError
from ureca.models.mllm.backend import make_prefix_input, make_suffix_input
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER, load_checkpoint
from ureca.models.mllm.checkpoints.convert import Compatibility, convert_checkpoint
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.mllm_engine import make_prompt
from ureca.models.mllm.prompt import TextTokenizer


def tokens_of_the_release() -> str:
    inner = Tokenizer.from_str(words_json())
    new = ["<s>", "<mask>", "</mask>", "<MASK_CONTEXT>"]
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in new])
    return inner.to_str()


def release(folder, kind, *, adapters=False, as_bin=False, **config):
    state = official.random_state(kind)
    if adapters:
        state = official.unmerged(state)
    official.write(folder, kind, state, tokens_of_the_release(), as_bin=as_bin)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return state


@torch.inference_mode()
def both(kind, state, converted, **options):
    """Logits [L, V] of one prompt: the reference's from the official tensors, and ours."""
    reference = official.Reference(kind, state, **options)
    model = load_checkpoint(converted)
    prompt = make_prompt(model, TextTokenizer.load(converted / TOKENIZER))
    tiler = ImageTiler.of(model.config)
    image, mask = picture(60, 120), masks(2, 60, 120)[1]
    grid = tiler.choose_grid(image.shape[1], image.shape[0])
    tiles = torch.from_numpy(tiler.make_pixel_tiles(image, grid))
    cells = torch.from_numpy(tiler.make_mask_tiles([mask], grid))
    assert grid.tiles == 3
    seen = model.vision(tiles)
    ids = prompt.encode_suffix("short", mask_tokens=official.MASKS * grid.tiles)
    own = make_suffix_input(model, prompt, ids, model.regions(cells, seen)[0])
    x = torch.cat([make_prefix_input(model, prompt, grid, seen).x, own], dim=1)
    ours = model.logits(model(x, torch.ones(x.shape[:2], dtype=torch.long)))[0]
    whole = torch.from_numpy(np.concatenate([prompt.encode_prefix(grid), ids]))
    theirs = reference.embed(whole)
    theirs[whole == prompt.image_id] = reference.see(tiles).flatten(0, 1)
    theirs[whole == prompt.mask_id] = reference.masks(cells[0] * 255)
    return reference.logits(theirs), ours


@pytest.mark.parametrize("kind", ["qwen2", "internlm2"])
@pytest.mark.parametrize("adapters", [False, True], ids=["merged", "adapters"])
def test_forward_is_equal_before_and_after_conversion(tmp_path, kind, adapters):
    state = release(tmp_path / "release", kind, adapters=adapters)
    converted = convert_checkpoint(tmp_path / "release", tmp_path / "converted")
    theirs, ours = both(kind, state, converted)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_adapters_scale_matters_and_can_be_given(tmp_path):
    state = release(tmp_path / "release", "qwen2", adapters=True)
    how = Compatibility(alpha_over_rank=0.5)
    converted = convert_checkpoint(tmp_path / "release", tmp_path / "converted", how)
    theirs, ours = both("qwen2", state, converted, alpha_over_rank=0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    other, _ = both("qwen2", state, converted, alpha_over_rank=2.0)
    assert (other - ours).abs().max() > 0.01


def test_masks_are_0_to_255_only_where_the_release_was_dynamic(tmp_path):
    release(tmp_path / "dynamic", "qwen2")
    release(tmp_path / "fixed", "qwen2", dynamic_mask_size=False)
    dynamic = load_checkpoint(convert_checkpoint(tmp_path / "dynamic", tmp_path / "a"))
    fixed = load_checkpoint(convert_checkpoint(tmp_path / "fixed", tmp_path / "b"))
    assert dynamic.config.mask.legacy_scale
    assert dynamic.config.picture.max_tiles == 2
    assert not fixed.config.mask.legacy_scale
    assert fixed.config.picture.max_tiles == 1
    one = torch.ones(1, 1, official.TILE, official.TILE)
    with torch.inference_mode():
        torch.testing.assert_close(dynamic.masks(one), fixed.masks(one * 255))
        assert (dynamic.masks(one) - fixed.masks(one)).abs().max() > 0.1
    how = Compatibility(legacy_scale=False, max_tiles=12)
    forced = load_checkpoint(convert_checkpoint(tmp_path / "dynamic", tmp_path / "c", how))
    assert not forced.config.mask.legacy_scale
    assert forced.config.picture.max_tiles == 12


def test_the_thumbnail_is_smooth_only_in_compatibility_mode(tmp_path):
    image = pytest.importorskip("PIL.Image")
    release(tmp_path / "release", "qwen2")
    converted = load_checkpoint(convert_checkpoint(tmp_path / "release", tmp_path / "converted"))
    tiler = ImageTiler.of(converted.config)
    mask = masks(3, 60, 120)[2]
    cells = tiler.make_mask_tiles([mask], tiler.choose_grid(120, 60))[0]
    assert set(np.unique(cells[:-1])) == {0.0, 1.0}
    assert len(np.unique(cells[-1])) > 2
    side = (official.TILE, official.TILE)
    smooth = image.fromarray(mask.astype(np.uint8) * 255).resize(side)
    np.testing.assert_array_equal(cells[-1] * 255, np.asarray(smooth, np.float32))


def test_a_pickle_of_tensors_is_read_and_one_with_code_is_not(tmp_path):
    state = release(tmp_path / "release", "qwen2", as_bin=True)
    theirs, ours = both(
        "qwen2", state, convert_checkpoint(tmp_path / "release", tmp_path / "converted")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.save({"mask_encoder.0.weight": print}, tmp_path / "release" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="more than tensors"):
        convert_checkpoint(tmp_path / "release", tmp_path / "other")


def test_arch_2_is_known_by_its_keys_and_refused(tmp_path):
    state = release(tmp_path / "release", "qwen2")
    for name in [n for n in state if n.startswith("mask_")]:
        del state[name]
    for name in ("mask_linear.0.weight", "concat_mask_linear.weight"):
        state[name] = torch.zeros(2, 2)
    for path in (tmp_path / "release").glob("*.safetensors"):
        path.unlink()
    official.save_file(state, tmp_path / "release" / "model.safetensors")
    with pytest.raises(WeightsError, match="arch 2"):
        convert_checkpoint(tmp_path / "release", tmp_path / "converted")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_mask_token": 8}, "says 8 mask tokens"),
        ({"ps_version": "v1"}, "pixel shuffle"),
        ({"llm_config": {"model_type": "gpt2", "num_attention_heads": 4}}, "gpt2"),
        ({"force_image_size": 112}, "cells"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, message):
    release(tmp_path / "release", "qwen2", **change)
    with pytest.raises(WeightsError, match=message):
        convert_checkpoint(tmp_path / "release", tmp_path / "converted")


def test_a_missing_tensor_and_half_an_adapter_are_named(tmp_path):
    state = official.unmerged(official.random_state("qwen2"))
    gone = next(name for name in state if name.endswith("lora_B.default.weight"))
    del state[gone]
    official.write(tmp_path / "half", "qwen2", state, tokens_of_the_release())
    with pytest.raises(WeightsError, match="not whole"):
        convert_checkpoint(tmp_path / "half", tmp_path / "a")
    state = official.random_state("qwen2")
    del state["mlp1.3.bias"]
    official.write(tmp_path / "less", "qwen2", state, tokens_of_the_release())
    with pytest.raises(WeightsError, match=r"linear_2\.bias"):
        convert_checkpoint(tmp_path / "less", tmp_path / "b")


def test_the_command_converts_and_says_what_comes_next(tmp_path, capsys):
    release(tmp_path / "release", "qwen2")
    out = tmp_path / "converted"
    command = ["mllm", "convert", str(tmp_path / "release"), "-o", str(out), "--scale", "1"]
    assert cli.main([*command, "--max-tiles", "12"]) == 0
    assert "ureca export" in capsys.readouterr().out
    config = load_checkpoint(out).config
    assert not config.mask.legacy_scale
    assert config.picture.max_tiles == 12
    assert config.prompt.begin.startswith("<|im_start|>system")
