"""The two stages in one process: what learns, and that nothing else depends on how it is run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bases import other_base
from safetensors.torch import load_file
from worlds import data_folder, picture, tiny_config

from tests.openai_server import Flaky
from ureca.errors import ConfigError, WeightsError
from ureca.models.mllm.backend import SuffixBatch, embed_prefix, make_suffix_input
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint
from ureca.models.mllm.checkpoints.wrap import wrap_base
from ureca.models.mllm.config import LoraConfig
from ureca.models.mllm.memory_estimate import (
    SHAPES,
    BaseShape,
    TrainingRecipe,
    estimate_budget,
    format_table,
)
from ureca.models.mllm.network.families import find_family
from ureca.models.mllm.network.lora import LoraLinear, add_lora, get_lora_tensors, merge_lora
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig, Parts
from ureca.models.mllm.training.freeze import freeze_parts
from ureca.models.mllm.training.mllm_learner import compute_answers_loss
from ureca.models.mllm.training.train import build_run, train
from ureca.models.runtime.segmentation.panoptic.coco_format import encode_segment_png
from ureca.models.training.distributed import Worker


@pytest.fixture
def recipe(tiny_checkpoint, tiny_data):
    return MllmTrainConfig(
        data=(MllmDataConfig(root=str(tiny_data)),),
        start_from=str(tiny_checkpoint),
        steps=4,
        rows_per_step=4,
        rows_per_pass=2,
        max_tiles=2,
        learning_rate=1e-2,
        device="cpu",
        held_out_every=0,
        lora=LoraConfig(rank=4, alpha=8, dropout=0.1),
    )


def built(recipe, out, **changes):
    config = replace(recipe, **changes)
    return build_run(config, out, worker=Worker(), device=torch.device("cpu"))


def state(folder, name="mask"):
    return load_file(folder / "checkpoint" / f"{name}.safetensors")


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_run_equals_an_unbroken_one_bit_by_bit(recipe, tmp_path, stage):
    config = replace(recipe, stage=stage)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "broken", stop_after=2)
    kind = "mask" if stage == 1 else "lora"
    assert not equal(state(tmp_path / "whole", kind), state(tmp_path / "broken", kind))
    train(config, tmp_path / "broken")
    assert equal(state(tmp_path / "whole", kind), state(tmp_path / "broken", kind))
    with pytest.raises(WeightsError, match="another set of parameters"):
        train(replace(config, stage=3 - stage), tmp_path / "broken")


def test_checkpointing_recomputes_and_changes_nothing(recipe, tmp_path):
    """With it, one layer's worth of tensors is kept instead of all; gradients are the same."""
    kept, gradients = {}, {}
    for on in (False, True):
        run = built(recipe, tmp_path / str(on), gradient_checkpointing=on, rows_per_pass=4)
        rows = next(run.plan.steps(0, 1))[1]
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.learner.learn(0, rows)
        kept[on] = count
        gradients[on] = [p.grad.clone() for p in run.learner.parameters]
    assert kept[True] < 0.7 * kept[False]
    for ours, theirs in zip(gradients[True], gradients[False], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_passes_and_workers_do_not_change_what_is_learnt(recipe, tmp_path):
    found = []
    for size in (1, 4):
        run = built(recipe, tmp_path / str(size), rows_per_pass=size, gradient_clip=1e6)
        rows = next(run.plan.steps(0, 1))[1]
        loss = run.learner.learn(0, rows)
        found.append((loss, [p.grad.clone() for p in run.learner.parameters]))
    (one, ours), (four, theirs) = found
    assert one == pytest.approx(four, rel=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rows_of_three_dimensions_are_padded_like_others(recipe, tmp_path):
    """Pictures of one tile and of two in one pass, against one row at a time."""
    folder, _ = other_base("qwen2_5_vl", tmp_path / "base")
    start = wrap_base(folder, tmp_path / "c", tiny_config(prompt=find_family("qwen2_5_vl").prompt))
    wide = data_folder(tmp_path / "set", sizes=((60, 120), (90, 120)))
    data = (MllmDataConfig(root=str(wide)),)
    losses, tiles = [], set()
    for size in (1, 16):
        changes = {"rows_per_pass": size, "rows_per_step": 16, "data": data}
        run = built(recipe, tmp_path, start_from=str(start), **changes)
        rows = next(run.plan.steps(0, 1))[1]
        tiles |= {row.tiles for group in rows for row in group}
        losses.append(run.learner.learn(0, rows))
    assert len(tiles) > 1
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # What is learnt is what captions are made with: word by word after the shared prefix.
    model, prompt = run.learner.model.eval(), run.learner.prompt
    example = run.learner.reader.read(rows[0])
    (asked,) = example.asked
    (ids,) = asked.answers
    with torch.inference_mode():
        image = model.vision(example.tiles)
        first = embed_prefix(model, prompt, example.prefix_ids, image)
        tokens = model.regions(example.masks, image)[0]
        suffix = make_suffix_input(model, prompt, asked.suffix_ids.numpy(), tokens)
        after = SuffixBatch(model, model.make_prefix(first), first.goes_on)
        logits = [after.start([suffix]), *(after.step(each[None].numpy()) for each in ids[:-1])]
        expected = torch.nn.functional.cross_entropy(torch.cat(logits), ids, reduction="sum")
        torch.testing.assert_close(compute_answers_loss(model, prompt, [example]), expected)


def test_packed_regions_of_three_dimensions_teach_what_they_teach_alone(recipe, tmp_path):
    folder, _ = other_base("qwen2_5_vl", tmp_path / "base")
    start = wrap_base(folder, tmp_path / "c", tiny_config(prompt=find_family("qwen2_5_vl").prompt))
    run = built(recipe, tmp_path, start_from=str(start), regions_per_picture=3, rows_per_step=6)
    groups = next(run.plan.steps(0, 1))[1]
    assert max(map(len, groups)) > 1
    model, prompt, read = run.learner.model.eval(), run.learner.prompt, run.learner.reader.read
    alone = [(row,) for group in groups for row in group]
    with torch.inference_mode():
        together = compute_answers_loss(model, prompt, [read(group) for group in groups])
        single = sum(compute_answers_loss(model, prompt, [read(group)]) for group in alone)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-4)


def test_learning_lowers_the_loss(recipe, tmp_path):
    run = built(recipe, tmp_path, steps=40, rows_per_step=6, rows_per_pass=6)
    rows = next(run.plan.steps(0, 1))[1]
    losses = [run.learner.learn(step, rows) for step in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_captions_of_curated_segments_are_learnt(recipe, tmp_path):
    from ureca.models.curation.panoptic.cli import main as curate_panoptic

    ids = np.full((90, 120), 2)
    ids[20:60, 30:80] = 1
    (tmp_path / "maps").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "maps" / "p.png").write_bytes(encode_segment_png(ids))
    cv2.imwrite(str(tmp_path / "pictures" / "p.png"), picture(90, 120, seed=0))
    rows = [{"id": n, "category_id": n} for n in (1, 2)]
    names = [{"id": n, "name": f"name {n}", "isthing": 2 - n} for n in (1, 2)]
    file = {
        "images": [{"id": 1, "file_name": "p.png", "width": 120, "height": 90}],
        "annotations": [{"image_id": 1, "file_name": "p.png", "segments_info": rows}],
        "categories": names,
    }
    (tmp_path / "maps.json").write_text(json.dumps(file))
    out = tmp_path / "curated"
    said = "a red cup beside a plate"
    server = Flaky(reply=lambda prompt, _: "True" if "True or False" in prompt else said)
    try:
        words = [tmp_path / "maps.json", "--images", tmp_path / "pictures", "-o", out]
        who = ["--url", server.url, "--model", "scripted", "--copy-images", "--json"]
        assert curate_panoptic([*map(str, words), *who]) == 0
    finally:
        server.die()
    run = built(recipe, tmp_path / "run", data=(MllmDataConfig(root=str(out)),))
    batch = next(run.plan.steps(0, 1))[1]
    told = {text for group in batch for row in group for text in row.texts}
    assert told == {said}
    losses = [run.learner.learn(step, batch) for step in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_bf16_keeps_what_learns_in_float32(recipe, tmp_path):
    run = built(recipe, tmp_path, precision="bf16", stage=2)
    assert run.learner.model.dtype == torch.bfloat16
    assert {p.dtype for p in run.learner.parameters} == {torch.float32}
    rows = next(run.plan.steps(0, 1))[1]
    before = [p.detach().clone() for p in run.learner.parameters]
    assert run.learner.learn(0, rows) > 0
    pairs = zip(before, run.learner.parameters, strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (Parts(mask=True), {"masks"}),
        (Parts(mask=True, marks=True), {"masks", "marks"}),
        (Parts(mask=True, projector=True), {"masks", "base.model.multi_modal_projector"}),
        (Parts(lora=True), {"base.model.language_model"}),
    ],
)
def test_the_freeze_plan_is_what_the_parts_say(recipe, tiny_checkpoint, parts, expected):
    model = load_checkpoint(tiny_checkpoint, merge=False)
    names = freeze_parts(model, replace(recipe, parts=parts))
    roots = {".".join(name.split(".")[: 3 if name.startswith("base") else 1]) for name in names}
    assert roots == expected
    assert not [name for name in names if "vision" in name or "embed" in name]


def test_nothing_to_learn_is_refused(recipe, tiny_checkpoint):
    with pytest.raises(ConfigError, match="nothing learns"):
        freeze_parts(load_checkpoint(tiny_checkpoint), replace(recipe, parts=Parts()))


def test_the_trained_projector_is_kept(recipe, tmp_path, tiny_checkpoint):
    """Stage 1 with the image projector keeps it beside the base: nothing learnt may be lost."""
    name = "model.multi_modal_projector.linear_1.weight"
    train(replace(recipe, parts=Parts(mask=True, projector=True)), tmp_path)
    trained = load_checkpoint(tmp_path / "checkpoint").base.state_dict()[name]
    start = load_checkpoint(tiny_checkpoint).base.state_dict()[name]
    assert not torch.equal(trained, start)


def test_adapters_merge_into_what_they_said(tiny_checkpoint):
    language = load_checkpoint(tiny_checkpoint).language
    places = add_lora(language, LoraConfig(rank=4, alpha=8, dropout=0.0))
    assert len(places) == 14
    x = torch.randn(2, 5, 32)
    with torch.inference_mode():
        before = language(inputs_embeds=x, use_cache=False).last_hidden_state
    with torch.no_grad():
        for tensor in get_lora_tensors(language).values():
            tensor.normal_(std=0.2)
    with torch.inference_mode():
        beside = language(inputs_embeds=x, use_cache=False).last_hidden_state
        assert merge_lora(language) == 14
        assert not [m for m in language.modules() if isinstance(m, LoraLinear)]
        merged = language(inputs_embeds=x, use_cache=False).last_hidden_state
    assert (beside - before).abs().max() > 0.05
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=1e-4)
    with pytest.raises(WeightsError, match="no linear layers named"):
        add_lora(language, LoraConfig(targets=("wqkv",)))


def test_epochs_are_a_pure_function_and_group_by_length(recipe, tmp_path):
    run = built(recipe, tmp_path)
    first, again = run.plan.epoch(0), run.plan.epoch(0)
    assert first == again
    assert first != run.plan.epoch(1)
    assert all(len(batch) == 4 for batch in first)
    seen = [row.record.region_id for batch in first for group in batch for row in group]
    assert len(set(seen)) == len(seen)


def test_a_prompt_that_does_not_fit_is_refused_by_name(recipe, tmp_path):
    run = built(recipe, tmp_path, max_length=20)
    with pytest.raises(ConfigError, match="max_length is 20"):
        run.learner.learn(0, next(run.plan.steps(0, 1))[1])


def test_the_plan_counts_the_parameters_that_a_model_has(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint)
    shape = BaseShape(
        name="tiny",
        width=32,
        layers=2,
        heads=4,
        shared=2,
        head_dim=8,
        ff_width=64,
        vocab=model.base.config.text_config.vocab_size,
    )
    matrices = sum(
        p.numel()
        for n, p in model.language.named_parameters()
        if n.startswith("layers.") and p.ndim == 2
    )
    assert shape.layers * shape.block == matrices
    assert shape.count_mask_parameters(2, side_px=28) == sum(
        p.numel() for p in model.masks.parameters()
    )
    add_lora(model.language, LoraConfig(rank=4))
    assert shape.count_lora_parameters(4) == sum(
        t.numel() for t in get_lora_tensors(model.language).values()
    )


def test_the_plan_knows_the_published_sizes_and_stands_in_the_docs(repository):
    linear = {"1B": 11.2e6, "2B": 25.7e6, "8B": 51.4e6}  # research notes, counted there by hand
    for shape in SHAPES:
        assert shape.count_mask_parameters(16) == pytest.approx(linear[shape.name], rel=0.01)
        small, large = (estimate_budget(shape, TrainingRecipe(stage=s)) for s in (1, 2))
        assert small.total_gib < large.total_gib < 40
    assert format_table() in (repository / "docs" / "mllm.md").read_text(encoding="utf8")


def test_recipes_in_configs_load(repository):
    from ureca.config import load_config
    from ureca.models.mllm.config import MllmConfig

    for path in (repository / "configs" / "model").glob("*.yaml"):
        load_config(MllmConfig, path)
    stages = [
        load_config(MllmTrainConfig, repository / "configs" / "train" / f"mllm-stage{n}.yaml")
        for n in (1, 2)
    ]
    assert [config.learning_rate for config in stages] == [2e-4, 4e-5]
    assert stages[1].lora.rank == 128


def test_the_list_of_what_learns_is_printed(recipe, tmp_path, capsys):
    from ureca.models.mllm.training.train import main

    path = Path(tmp_path / "recipe.yaml")
    root = recipe.data[0].root
    path.write_text(f"data: [{{root: {root}}}]\nstart_from: {recipe.start_from}\n")
    assert main([str(path), "--list"]) == 0
    assert capsys.readouterr().out.split()[1::2][0] == "masks.mask_encoder.0.weight"
