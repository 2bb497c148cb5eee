"""Captions through the shared prefix, and every family that is said to work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bases import other_base
from worlds import internvl_base, masks, picture, tiny_config

from ureca import cli
from ureca.datatypes import RegionInput, RowDelta, RowDone
from ureca.errors import (
    ConfigError,
    EngineError,
    MissingExtraError,
    RegionError,
    WeightsError,
)
from ureca.models.mllm import generate
from ureca.models.mllm.backend import make_prefix_input
from ureca.models.mllm.bench import run_bench
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.checkpoints.wrap import wrap_base
from ureca.models.mllm.config import MaskConfig, PromptConfig
from ureca.models.mllm.finecaption.sizes import FINECAPTION
from ureca.models.mllm.mllm_engine import open_checkpoint
from ureca.models.mllm.network.families import FAMILIES, NANO_LM, find_family
from ureca.models.mllm.network.model import insert_features
from ureca.models.mllm.prompt import CaptionPrompt, TextTokenizer
from ureca.models.preprocess import Grid


def inputs(count, height=90, width=120, **options):
    """Regions, every third one asked for a sentence: prompts of two lengths."""
    return [
        RegionInput(mask, style="long" if n % 3 == 0 else "short", **options)
        for n, mask in enumerate(masks(count, height, width))
    ]


def done(stream):
    return {event.row: event for event in stream if isinstance(event, RowDone)}


def both(engine, image, regions, *, new=8):
    """Token lists of the shared prefix and of the package's own `generate` per region."""
    with torch.inference_mode():
        frame = engine.encode(image)
        suffixes = engine.make_suffixes(frame, regions)
        prefix = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    how = {"stop_ids": engine.prompt.stop_ids, "max_new_tokens": new}
    shared = generate.generate_shared(engine.model, prefix, suffixes, **how)
    return shared, generate.generate_per_region(engine.model, prefix, suffixes, **how)


@pytest.mark.parametrize("size", [(90, 120), (60, 120)], ids=["one tile", "two and a thumbnail"])
def test_the_shared_prefix_says_what_generate_says_per_region(tiny_engine, size):
    shared, alone = both(tiny_engine, picture(*size), inputs(6, *size))
    assert shared == alone
    assert len({tuple(ids) for ids in shared}) > 3, "regions must differ, or nothing is compared"


def test_the_prefix_is_held_once_and_not_per_region(tiny_engine):
    frame = tiny_engine.encode(picture())
    keys, values = frame.prefix[0]
    assert keys.shape == values.shape == (2, len(tiny_engine.prompt.encode_prefix(frame.grid)), 8)
    rows = tiny_engine.make_batch(frame)
    suffixes = tiny_engine.make_suffixes(frame, inputs(5))
    rows.start(suffixes)
    own = rows._cache.layers[0].keys
    assert own.shape[2] == max(x.shape[1] for x in suffixes), "only own tokens are cached per row"


def test_streamed_text_joins_to_the_caption_and_rows_end_once(tiny_engine):
    frame = tiny_engine.encode(picture())
    events = list(tiny_engine.caption(frame, inputs(5, max_new_tokens=6)))
    rows = done(events)
    assert sorted(rows) == [0, 1, 2, 3, 4]
    assert len([e for e in events if isinstance(e, RowDone)]) == 5
    for row, end in rows.items():
        parts = [e.text for e in events if isinstance(e, RowDelta) and e.row == row]
        assert "".join(parts) == end.text
        assert end.n_tok <= 6
    assert {"prep", "vit", "prefill", "region", "ttft", "gen"} <= set(tiny_engine.times.us)


def test_rows_that_end_early_do_not_disturb_the_others(tiny_engine):
    frame = tiny_engine.encode(picture())
    alike = inputs(5, max_new_tokens=8)
    mixed = [
        RegionInput(r.mask, style=r.style, max_new_tokens=2 if n < 3 else 8)
        for n, r in enumerate(alike)
    ]
    whole, cut = (done(tiny_engine.caption(frame, regions)) for regions in (alike, mixed))
    assert [cut[n].text for n in (3, 4)] == [whole[n].text for n in (3, 4)]
    stopped = done(tiny_engine.caption(frame, alike, aborted=lambda row: row == 1))
    assert stopped[1].stop == "aborted"
    assert stopped[0].text == whole[0].text


def test_bad_regions_are_refused_at_the_call(tiny_engine):
    frame = tiny_engine.encode(picture())
    with pytest.raises(RegionError, match="empty"):
        tiny_engine.caption(frame, [RegionInput(np.zeros((90, 120), np.bool_))])
    with pytest.raises(RegionError, match="size"):
        tiny_engine.caption(frame, [RegionInput(np.ones((9, 9), np.bool_))])
    with pytest.raises(EngineError, match="at most 32"):
        tiny_engine.caption(frame, inputs(33))
    assert list(tiny_engine.caption(frame, [])) == []


def test_weights_that_are_not_finite_end_the_row_and_not_the_process(tiny_engine):
    frame = tiny_engine.encode(picture())
    with torch.no_grad():
        tiny_engine.model.masks.mask_linear.bias[0] = float("nan")
    rows = done(tiny_engine.caption(frame, inputs(2)))
    assert {row.stop for row in rows.values()} == {"non_finite"}


def test_the_feature_token_is_one_more_and_starts_silent(tiny_base, tmp_path):
    mask = MaskConfig(num_mask_tokens=2, side_px=28, feature_token=True)
    wrap_base(tiny_base, tmp_path / "c", tiny_config(mask=mask))
    engine = open_checkpoint(tmp_path / "c", device="cpu")
    frame = engine.encode(picture())
    cells = torch.from_numpy(engine._tiler.make_mask_tiles(masks(3), frame.grid))
    with torch.inference_mode():
        tokens = engine.model.regions(cells, frame.image_tokens)
        assert tokens.shape == (3, 3, 32)
        assert not tokens[:, -1].any()
        torch.nn.init.eye_(engine.model.feature.linear.weight)
        means = engine.model.feature(cells, frame.image_tokens)[:, 0]
    share = torch.nn.functional.adaptive_avg_pool2d(cells, 2).flatten(1)
    mean = share @ frame.image_tokens / share.sum(1, keepdim=True)
    expected = torch.nn.functional.layer_norm(mean, (32,))
    torch.testing.assert_close(means, expected)
    shared, alone = both(engine, picture(), inputs(4))
    assert shared == alone


def test_bf16_runs_and_bits_need_their_package(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint, precision="bf16")
    assert model.dtype == torch.bfloat16
    assert model.masks.mask_linear.weight.dtype == torch.float32
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        for kind in ("int8", "int4"):
            with pytest.raises(MissingExtraError, match="mllm-bits"):
                load_checkpoint(tiny_checkpoint, precision=kind)
    else:
        pytest.skip("bitsandbytes is installed: its refusal was not tried, nor were its weights")


def test_another_base_is_found_by_its_sum(tiny_checkpoint, tmp_path):
    import shutil

    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    other = internvl_base(tmp_path / "other", layers=2)
    path = tmp_path / "copy" / "base" / "config.json"
    path.write_text((other / "config.json").read_text() + " ")
    with pytest.raises(WeightsError, match="another base model"):
        load_checkpoint(tmp_path / "copy")


def test_placeholders_are_counted_and_a_mismatch_is_raised(tiny_checkpoint):
    words = TextTokenizer.load(tiny_checkpoint / "tokenizer.json")
    prompt = CaptionPrompt(words, PromptConfig(), layout="plain", tokens_per_tile=4)
    before, own = prompt.encode_prefix(Grid(2, 1)), prompt.encode_suffix("long", mask_tokens=6)
    assert (before == prompt.image_id).sum() == 12
    assert (own == prompt.mask_id).sum() == 6
    text = words._inner.decode([*before, *own], skip_special_tokens=False)
    assert words.encode(text) == [*before, *own], "cutting at the mask block changes no token"
    bad = PromptConfig(short="Name <MASK_CONTEXT> this.")
    with pytest.raises(ConfigError, match="expected 6 mask placeholders, found 7"):
        CaptionPrompt(words, bad, layout="plain", tokens_per_tile=4).encode_suffix(
            "short", mask_tokens=6
        )
    with pytest.raises(ConfigError, match="in a caption"):
        prompt.encode_answer("a red <IMG_CONTEXT> cup")
    ids = torch.from_numpy(own)
    with pytest.raises(EngineError, match=r"expected 5 placeholders .*found 6"):
        insert_features(torch.zeros(len(own), 8), ids, prompt.mask_id, torch.zeros(5, 8))
    with pytest.raises(WeightsError, match="no token '<nobody>'"):
        CaptionPrompt(words, PromptConfig(stop=("<nobody>",)), layout="plain", tokens_per_tile=4)


def test_mask_tokens_are_the_channels_in_order(tiny_checkpoint):
    """Flatten per channel, one shared linear: never spatial tokens."""
    model = load_checkpoint(tiny_checkpoint)
    tiles = torch.from_numpy(np.stack([m[:28, :28] for m in masks(3)])).float()[None]
    with torch.inference_mode():
        maps = model.masks.mask_encoder(tiles[0, :, None])
        expected = [model.masks.mask_linear(maps[t, n].flatten()) for t in range(3) for n in (0, 1)]
        torch.testing.assert_close(model.masks(tiles)[0], torch.stack(expected))


def stock_features(kind, base, tiles):
    """Image tokens [T * p, d] as the package's own entry point gives them, tile by tile."""
    if kind == "llava_onevision":
        seen = base.model.vision_tower(tiles, output_hidden_states=True).hidden_states[-1]
        return base.model.multi_modal_projector(seen).flatten(0, 1)
    if kind.startswith("qwen"):
        pixels, grid = qwen_pixels(tiles)
        return torch.cat(tuple(base.model.get_image_features(pixels, grid).pooler_output))
    return base.model.get_image_features(tiles[None]).pooler_output[0]


def qwen_pixels(tiles):
    """Tiles as the package's own picture processor flattens pictures of that very size."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rules = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, do_resize=False, do_rescale=False, do_normalize=False
    )
    given = rules(
        images=list(tiles.numpy()), return_tensors="pt", input_data_format="channels_first"
    )
    return given["pixel_values"], given["image_grid_thw"]


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) - {"internvl", NANO_LM, FINECAPTION}))
def test_other_families_see_and_speak_as_the_package_does(kind, tmp_path):
    folder, base = other_base(kind, tmp_path / "base")
    wrap_base(folder, tmp_path / "c", tiny_config(prompt=find_family(kind).prompt))
    engine = open_checkpoint(tmp_path / "c", device="cpu")
    image = picture(60, 120)
    grid = engine._tiler.choose_grid(120, 60)
    tiles = torch.from_numpy(engine._tiler.make_pixel_tiles(image, grid))
    if not kind.startswith("qwen"):
        assert float(tiles.min()) >= -1.0001, "SigLIP's pictures are normalised to -1..1"
    with torch.inference_mode():
        expected = stock_features(kind, base.eval(), tiles)
        torch.testing.assert_close(engine.model.vision(tiles), expected)
    shared, alone = both(engine, image, inputs(4, 60, 120))
    assert shared == alone
    assert len({tuple(ids) for ids in shared}) > 1
    with torch.inference_mode():
        frame = engine.encode(image)
        first = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
        for suffix in engine.make_suffixes(frame, inputs(2, 60, 120)):
            x = torch.cat([first.x, suffix], dim=1)
            seen = torch.ones(x.shape[:2], dtype=torch.long)
            plain = engine.model(x, seen, first.extend_positions(x.shape[1]))[:, -1]
            torch.testing.assert_close(
                engine.make_batch(frame).start([suffix]),
                engine.model.logits(plain),
                rtol=1e-4,
                atol=1e-4,
            )


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_positions_of_three_dimensions_are_the_package_s(kind, tmp_path):
    """Pixels, ids and counting by the package's own `generate`; only mask tokens are put in."""
    folder, _ = other_base(kind, tmp_path / "base")
    wrap_base(folder, tmp_path / "c", tiny_config(prompt=find_family(kind).prompt))
    engine = open_checkpoint(tmp_path / "c", device="cpu")
    image, regions = picture(60, 120), inputs(4, 60, 120)
    shared, _ = both(engine, image, regions)
    frame = engine.encode(image)
    before = torch.from_numpy(engine.prompt.encode_prefix(frame.grid))
    assert frame.goes_on < len(before), "a tile takes fewer positions than tokens"
    pixels, grids = qwen_pixels(torch.from_numpy(engine._tiler.make_pixel_tiles(image, frame.grid)))
    stop, place = list(engine.prompt.stop_ids), engine.prompt.mask_id
    for region, said in zip(regions, shared, strict=True):
        cells = torch.from_numpy(engine._tiler.make_mask_tiles([region.mask], frame.grid))
        with torch.inference_mode():
            tokens = engine.model.regions(cells, frame.image_tokens)[0]
            own = engine.prompt.encode_suffix(region.style, mask_tokens=len(tokens))
            ids = torch.cat([before, torch.from_numpy(own)])[None]
            hook = engine.model.base.get_input_embeddings().register_forward_hook(
                lambda _, given, x, tokens=tokens: (
                    x.masked_scatter((given[0] == place)[..., None].expand_as(x), tokens)
                    if (given[0] == place).any()
                    else x
                )
            )
            answer = engine.model.base.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                image_grid_thw=grids,
                mm_token_type_ids=(ids == engine.prompt.image_id).long(),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=stop,
                pad_token_id=stop[0],
            )
            hook.remove()
        own = answer[0, ids.shape[1] :].tolist()
        assert said == own[: own.index(stop[0])] if stop[0] in own else said == own


def test_a_tile_of_another_size_is_refused_by_a_base_that_takes_many(tmp_path):
    from ureca.models.mllm.config import PictureConfig

    folder, _ = other_base("qwen2_5_vl", tmp_path / "base")
    with pytest.raises(WeightsError, match="multiples of 14 px"):
        wrap_base(folder, tmp_path / "c", tiny_config(picture=PictureConfig(tile_px=30)))
    wide = PictureConfig(tile_px=56, max_tiles=1)
    wrap_base(
        folder, tmp_path / "c", tiny_config(picture=wide, prompt=find_family("qwen2_vl").prompt)
    )
    assert load_checkpoint(tmp_path / "c").config.picture.tokens_per_tile == 16


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl_chat", "nobody"])
def test_a_family_that_does_not_fit_is_refused_with_the_reason(kind):
    with pytest.raises(WeightsError, match="cannot carry URECA"):
        find_family(kind)


def test_the_bench_compares_equal_work(tiny_engine):
    result = run_bench(tiny_engine, regions=3, rounds=2, new_tokens=4)
    assert result.equal_rows == 3
    assert [arm.arm for arm in result.arms] == ["shared", "batch", "per region"]
    assert all(len(arm.seconds) == 2 for arm in result.arms)
    assert "3 of 3" in result.table()


def test_wrapping_by_command_takes_a_configuration_and_never_overwrites(
    tiny_base, repository, tmp_path, capsys
):
    model = repository / "configs" / "model" / "internvl.yaml"
    command = ["mllm", "wrap", str(tiny_base), "-o", str(tmp_path / "c"), "--config", str(model)]
    changes = ["--set", "mask.side_px=28", "--set", "mask.num_mask_tokens=3"]
    assert cli.main([*command, *changes]) == 0
    assert "untrained" in capsys.readouterr().out
    found = load_checkpoint(tmp_path / "c", precision="fp32")
    assert found.config.name == "ureca-internvl"
    assert (found.config.picture.tile_px, found.config.mask.num_mask_tokens) == (28, 3)
    assert cli.main([*command, *changes]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert cli.main(["mllm", "wrap", str(tmp_path), "-o", str(tmp_path / "d")]) == 2
    assert cli.main(["mllm", "plan"]) == 0
    assert "computed, not measured" in capsys.readouterr().out


def test_an_untouched_base_says_what_it_said(tiny_base, tiny_checkpoint):
    """New words must not move old ones: the language model's logits stay as they were."""
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(tiny_base, dtype=torch.float32).eval()
    ids = torch.tensor([[7, 40, 91, 12]])
    with torch.inference_mode():
        before = base(input_ids=ids).logits
        model = load_checkpoint(tiny_checkpoint)
        after = model.logits(model(model.embed(ids), torch.ones_like(ids)))
    known = TextTokenizer.load(tiny_base / "tokenizer.json").size
    torch.testing.assert_close(after[..., :known], before[..., :known])
