"""FineCaption: the tower, its sharing over regions, the stages, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fine_parts import CLIP_PX, TILE_PX, TOKENS, convnext_model, draw_mask_layer, joined
from worlds import data_folder, masks, picture, scaled

from ureca.config import load_config
from ureca.datatypes import RegionInput
from ureca.engine import supports_attributes
from ureca.errors import ConfigError, EngineError, WeightsError
from ureca.models.mllm import generate
from ureca.models.mllm.backend import make_prefix_input
from ureca.models.mllm.bench import main as bench
from ureca.models.mllm.checkpoints.checkpoint import load_base, load_checkpoint
from ureca.models.mllm.checkpoints.wrap import pack_parts, wrap_base
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.finecaption import fusion, memory
from ureca.models.mllm.finecaption.join import FineCaptionParts
from ureca.models.mllm.memory_estimate import main as plan_memory
from ureca.models.mllm.mllm_engine import open_checkpoint
from ureca.models.mllm.network.families import find_family
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig, Parts
from ureca.models.mllm.training.freeze import freeze_parts
from ureca.models.mllm.training.train import build_run, train
from ureca.models.training.distributed import Worker

REGIONS = 8
CLIP_L_PX = 336
REPOSITORY = Path(__file__).resolve().parents[2]


def tiles_and_masks(regions=REGIONS, side=TILE_PX, mask_side=CLIP_PX):
    draw = torch.Generator().manual_seed(3)
    tiles = torch.randn(1, 3, side, side, generator=draw)
    return tiles, (torch.rand(regions, 1, mask_side, mask_side, generator=draw) > 0.6).float()


def test_step_0_is_plain_clip_to_the_bit(fine_checkpoint, fine_parts):
    """The mask convolution starts at zero: the map is that of the CLIP that went in."""
    from transformers import CLIPVisionModel

    model = load_checkpoint(fine_checkpoint)
    tower = model.base.model.vision_tower
    plain = CLIPVisionModel.from_pretrained(fine_parts["clip"]).eval()
    tiles, shown = tiles_and_masks()
    with torch.inference_mode():
        small = tower.shrink(tiles).expand(REGIONS, -1, -1, -1)
        expected = plain(small, output_hidden_states=True).hidden_states[-2][:, 1:]
        assert torch.equal(tower.encode_small(small, shown[:, 0]), expected)
        draw_mask_layer(model)
        assert (tower.encode_small(small, shown[:, 0]) - expected).abs().max() > 0.01


def test_step_0_says_what_the_model_without_masks_says(fine_checkpoint, fine_parts, tmp_path):
    blind = wrap_base(joined(tmp_path / "base", fine_parts, masked=False), tmp_path / "blind")
    tiles, shown = tiles_and_masks()
    models, found = [load_checkpoint(folder) for folder in (fine_checkpoint, blind)], []
    adapters = [model.base.model.multi_modal_projector for model in models]
    adapters[1].load_state_dict(adapters[0].state_dict())
    for model in models:
        with torch.inference_mode():
            maps = model.encode_picture(tiles).maps
            found.append(model.regions(shown, tiles, model.encode_tower_regions(shown, maps)))
    assert torch.equal(*found)
    assert found[0].shape == (REGIONS, TOKENS, 32)


@pytest.mark.parametrize(
    ("large", "tokens"),
    [((), 9), (("convnext",), TOKENS), (("sam",), TOKENS), (("convnext", "sam"), TOKENS)],
)
def test_shared_encoders_equal_the_plain_fusion(fine_parts, tmp_path, large, tokens):
    """All rows of the ablation: the mask-free encoders run once, CLIP once for every region."""
    base = joined(tmp_path / "base", fine_parts, large=large)
    model = draw_mask_layer(load_checkpoint(wrap_base(base, tmp_path / "c")))
    tower = model.base.model.vision_tower
    tiles, shown = tiles_and_masks(side=tower.sizes.tile_px)
    rows = {"clip": 0, "convnext": 0, "sam": 0}

    def count(name):
        def hook(_module, inputs, _output):
            rows[name] += len(inputs[0])

        return hook

    hooks = [getattr(tower, n).register_forward_hook(count(n)) for n in ("clip", *large)]
    with torch.inference_mode():
        shared = model.encode_tower_regions(shown, model.encode_picture(tiles).maps)
        assert rows == {"clip": REGIONS, **{n: int(n in large) for n in ("convnext", "sam")}}
        for hook in hooks:
            hook.remove()
        alone = fusion.encode_regions_alone(model.base, tiles, shown)
    assert shared.shape == (REGIONS, tokens, 32)
    assert (shared - alone).abs().max() < 1e-5 * alone.abs().max().clamp_min(1)
    assert (shared[0] - shared[1]).abs().max() > 1e-3  # other masks, other tokens


def test_convnext_v2_fits_too(fine_parts, tmp_path):
    folder = tmp_path / "convnextv2"
    scaled(convnext_model("ConvNextV2")).save_pretrained(folder)
    base = joined(tmp_path / "base", {**fine_parts, "convnext": str(folder)})
    assert find_family("ureca_finecaption").grid_side(load_base(base, "fp32").config, 0) == 4


def test_the_engine_says_what_generate_says(fine_checkpoint):
    engine = open_checkpoint(fine_checkpoint, device="cpu")
    draw_mask_layer(engine.model)
    frame = engine.encode(picture())
    regions = [
        RegionInput(m, style=s, max_new_tokens=8) for m in masks(3) for s in ("short", "long")
    ]
    suffixes = engine.make_suffixes(frame, regions)
    first = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    ways = generate.generate_shared, generate.generate_per_region
    stop = engine.prompt.stop_ids
    ours, theirs = (w(engine.model, first, suffixes, stop_ids=stop, max_new_tokens=8) for w in ways)
    assert ours == theirs
    assert len({tuple(row) for row in ours}) > 1
    done = [e for e in engine.caption(frame, regions) if hasattr(e, "stop")]
    assert len(done) == len(regions)


def test_the_same_mask_is_seen_once(fine_checkpoint):
    engine = open_checkpoint(fine_checkpoint, device="cpu")
    frame, (mask,) = engine.encode(picture()), masks(1)
    rows = []
    clip = engine.model.base.model.vision_tower.clip
    clip.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    engine.make_suffixes(frame, [RegionInput(mask, style=s) for s in ("short", "long")])
    assert rows == [1]


# --- stages ---------------------------------------------------------------------------------------


@pytest.fixture
def recipe(fine_checkpoint, tiny_data):
    return MllmTrainConfig(
        data=(MllmDataConfig(root=str(tiny_data)),),
        start_from=str(fine_checkpoint),
        steps=10,
        rows_per_step=4,
        rows_per_pass=4,
        warmup_share=0.0,
        learning_rate=3e-3,
        gradient_checkpointing=False,
        device="cpu",
        held_out_every=0,
    )


ADAPTER = [
    f"base.model.multi_modal_projector.linear_{n}.{k}" for n in "12" for k in ("weight", "bias")
]
CONVOLUTION = ["base.model.vision_tower.clip.embeddings.patch_embedding.mask.weight"]


def test_the_stages_are_the_papers(recipe, fine_checkpoint):
    """1: the adapter. 2: what reads the mask. 3: everything."""
    model = load_checkpoint(fine_checkpoint, merge=False)
    assert freeze_parts(model, recipe) == ADAPTER
    assert freeze_parts(model, replace(recipe, stage=2)) == CONVOLUTION
    whole = [n for n, _ in model.named_parameters() if n.startswith("base.") or n == "marks"]
    assert sorted(freeze_parts(model, replace(recipe, stage=3))) == sorted(whole)
    parts = Parts(lora=True, mask_convolution=True)
    names = freeze_parts(model, replace(recipe, stage=3, parts=parts))
    assert [n for n in names if ".lora_" not in n] == CONVOLUTION
    assert len(names) == 1 + 2 * 7 * 2


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_lowers_the_loss(recipe, tmp_path, stage):
    rate = {1: 3e-3, 2: 3e-2, 3: 1e-3}[stage]
    config = replace(recipe, stage=stage, learning_rate=rate)
    run = build_run(config, tmp_path, worker=Worker(), device=torch.device("cpu"))
    rows = next(run.plan.steps(0, 1))[1]
    losses = [run.learner.learn(step, rows) for step in range(6)]
    assert losses[-1] < losses[0] - 0.02


# --- attributes -----------------------------------------------------------------------------------


def test_a_region_is_taught_one_attribute_at_a_time(recipe, fine_checkpoint, tmp_path):
    """An attribute of which the captioner has no instruction is not taught."""
    data = data_folder(tmp_path / "set", attributes={"colour": ["a red cup"], "skin": ["pale"]})
    sources = (MllmDataConfig(root=str(data)),)
    config = replace(recipe, data=sources, attribute_share=0.5)
    run = build_run(config, tmp_path, worker=Worker(), device=torch.device("cpu"))
    groups = [group for _, step in run.plan.steps(0, 8) for group in step]
    asked = [row.attribute for group in groups for row in group]
    assert set(asked) == {"", "colour"}
    assert asked.count("colour") == pytest.approx(len(asked) / 2, abs=8)
    colour = next(group for group in groups if group[0].attribute == "colour")
    example, prompt = run.learner.reader.read(colour), run.learner.prompt
    wanted = prompt.encode_suffix("short", mask_tokens=TOKENS, attribute="colour")
    assert example.asked[0].suffix_ids.tolist() == wanted.tolist()
    assert example.asked[0].answers[0].tolist() == prompt.encode_answer("a red cup")


def test_attributes_without_an_instruction_are_named(fine_checkpoint):
    prompt = open_checkpoint(fine_checkpoint, device="cpu").prompt
    colour, short = (
        prompt.encode_suffix("short", mask_tokens=1, attribute=a) for a in ("colour", "")
    )
    assert colour.tolist() != short.tolist()
    with pytest.raises(ConfigError, match=r"'skin'.*has category, colour"):
        prompt.encode_suffix("short", mask_tokens=1, attribute="skin")


def test_the_engine_answers_attributes_by_their_instructions(fine_checkpoint):
    engine = open_checkpoint(fine_checkpoint, device="cpu")
    draw_mask_layer(engine.model)
    assert supports_attributes(engine)
    assert {"colour", "material", "pose"} <= set(engine.attributes)
    frame = engine.encode(picture())
    one, two = masks(2)
    asked = ("colour", "pattern", "pose")  # there is no instruction for `pattern`
    regions = [RegionInput(one, max_new_tokens=6, attributes=asked), RegionInput(two)]
    done = {e.row: e for e in engine.caption(frame, regions) if hasattr(e, "stop")}
    assert done[1].attributes == ()
    assert [(a.name, a.status, a.probability) for a in done[0].attributes] == [
        ("colour", "said", None),
        ("pose", "said", None),
    ]
    (alone,) = engine.make_suffixes(frame, regions[:1], ["pose"])
    first = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    (ids,) = generate.generate_per_region(
        engine.model, first, [alone], stop_ids=engine.prompt.stop_ids, max_new_tokens=6
    )
    words = TextTokenizer.load(fine_checkpoint / "tokenizer.json")
    assert done[0].attributes[1].text == words.decode(ids)


# --- what is kept, and what is refused ------------------------------------------------------------


def test_every_stage_keeps_what_the_one_before_learnt(recipe, fine_checkpoint, tmp_path):
    """Adapter beside the base, then the convolution, then a base of its own."""
    start, states = fine_checkpoint, []
    for stage in (1, 2, 3):
        config = replace(recipe, stage=stage, start_from=str(start), steps=1, rows_per_step=2)
        start = train(config, tmp_path / str(stage))
        states.append(load_checkpoint(start).base.state_dict())
    before = load_checkpoint(fine_checkpoint).base.state_dict()
    one, two, three = states
    changed = [
        {name for name in old if not torch.equal(old[name], new[name])}
        for old, new in ((before, one), (one, two), (two, three))
    ]
    assert changed[0] == {name.removeprefix("base.") for name in ADAPTER}
    assert changed[1] == {name.removeprefix("base.") for name in CONVOLUTION}
    for part in ("clip.encoder", "convnext", "sam", "language_model", "linear_1", "lm_head"):
        assert any(part in name for name in changed[2])
    with pytest.raises(WeightsError, match="its base learnt"):
        pack_parts(start, tmp_path / "parts")


def test_what_does_not_fit_is_refused(
    recipe, fine_parts, fine_checkpoint, tiny_checkpoint, tmp_path
):
    with pytest.raises(WeightsError, match="sam reads 128 px, tile_px is 96"):
        joined(tmp_path / "a", fine_parts, tile_px=96)
    with pytest.raises(WeightsError, match="expected a multiple of 32"):
        joined(tmp_path / "b", fine_parts, large=("convnext",), tile_px=100)
    with pytest.raises(WeightsError, match="clip_skip is too large"):
        joined(tmp_path / "c", fine_parts, clip_skip=3)
    with pytest.raises(WeightsError, match="expected convnext or convnextv2"):
        joined(tmp_path / "d", {**fine_parts, "convnext": fine_parts["sam"]})
    with pytest.raises(WeightsError, match="expected clip or clip_vision_model"):
        joined(tmp_path / "d", {**fine_parts, "clip": fine_parts["convnext"]})
    with pytest.raises(WeightsError, match="runs in fp32 or bf16"):
        load_checkpoint(fine_checkpoint, precision="int8")
    other, fine = load_checkpoint(tiny_checkpoint), load_checkpoint(fine_checkpoint)
    token = replace(fine.config, mask=replace(fine.config.mask, feature_token=True))
    with pytest.raises(EngineError, match="feature_token"):
        Mllm(fine.base, token)
    for model, changes, words in (
        (other, {"stage": 3}, "this family has the stages"),
        (other, {"parts": Parts(everything=True)}, "stays frozen"),
        (fine, {"parts": Parts(mask=True)}, "nothing learns"),
        (fine, {"parts": Parts(everything=True, mask_convolution=True)}, "drop the others"),
    ):
        with pytest.raises(ConfigError, match=words):
            freeze_parts(model, replace(recipe, **changes))


# --- figures --------------------------------------------------------------------------------------


def test_the_plan_counts_what_the_package_builds(capsys):
    """Parameters of the encoders, against models of those sizes (built without memory)."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        ConvNextConfig,
        ConvNextModel,
        SamVisionConfig,
        SamVisionModel,
    )

    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    clip |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    net = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
    sam = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    sam |= {"global_attn_indexes": [5, 11, 17, 23], "mlp_dim": 4096}
    with torch.device("meta"):
        built = (
            (CLIPVisionModel(CLIPVisionConfig(**clip)), memory.CLIP_L),
            (ConvNextModel(ConvNextConfig(**net)), memory.CONVNEXT_L),
            (SamVisionModel(SamVisionConfig(**sam)), memory.SAM_L),
        )
    for model, shape in built:
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert shape.parameters == pytest.approx(counted, rel=0.01)
    assert plan_memory(["--family", "finecaption"]) == 0
    said = capsys.readouterr().out
    assert (REPOSITORY / "docs" / "finecaption.md").read_text(encoding="utf8").count(
        said.split("\n\n")[1]
    ) == 1


def test_the_bench_times_both_arms(fine_checkpoint, capsys):
    assert bench([str(fine_checkpoint), "--regions", "2", "--rounds", "2", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["regions"], found["tokens"], len(found["speed_up"])) == (2, TOKENS, 2)
    assert found["difference"] < 1e-5


def test_the_shipped_configurations_say_what_the_code_does():
    configs = REPOSITORY / "configs"
    rows = {path.stem: path for path in (configs / "finecaption").glob("*.yaml")}
    parts = {name: load_config(FineCaptionParts, path) for name, path in rows.items()}
    found = {n: (list(p.encoders), p.masked, p.tile_px) for n, p in parts.items()}
    assert found == {
        "ablation-clip": (["clip"], False, CLIP_L_PX),
        "ablation-mask": (["clip"], True, CLIP_L_PX),
        "ablation-convnext": (["clip", "convnext"], True, 1024),
        "full": (["clip", "convnext", "sam"], True, 1024),
    }
    prompt = load_config(MllmConfig, configs / "model" / "finecaption.yaml").prompt
    family = find_family("ureca_finecaption").prompt
    same = replace(prompt, begin=family.begin, end=family.end, stop=family.stop)
    assert same == family
    for stage in (1, 2, 3):
        path = configs / "train" / f"finecaption-stage{stage}.yaml"
        assert load_config(MllmTrainConfig, path).stage == stage
