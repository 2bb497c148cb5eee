"""Pix2Cap over tiny random segmenters: unchanged by wrapping, trained in stages, captions of kept
segments only, and the commands over it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from processes import two_processes
from safetensors.torch import load_file
from tiny_segmenters import MAKERS, save_segmenter, segments_folder
from worlds import picture, words_json

from ureca import cli
from ureca.datatypes import RegionInput, RowDone
from ureca.models.mllm.pix2cap.checkpoint import load_pix2cap, wrap_segmenter
from ureca.models.mllm.pix2cap.config import (
    DecoderConfig,
    PictureInput,
    Pix2CapConfig,
    Pix2CapTrainConfig,
    SelectionConfig,
)
from ureca.models.mllm.pix2cap.engine import find_query, open_pix2cap
from ureca.models.mllm.pix2cap.picture_input import make_pixels
from ureca.models.mllm.pix2cap.segmenters import run_segmenter
from ureca.models.mllm.pix2cap.selection import select_segments
from ureca.models.mllm.pix2cap.train import train
from ureca.models.mllm.training.config import MllmDataConfig
from ureca.node.captioning.person_words import neutralise


def tiny_config(**more):
    return Pix2CapConfig(
        name="pix2cap-tiny",
        picture=PictureInput(short_px=64, long_px=96),
        selection=SelectionConfig(object_score=0.2, mask=0.1, overlap=0.2, stuff=(2, 3)),
        decoder=DecoderConfig(width=32, layers=2, heads=4),
        max_new_tokens=8,
        **more,
    )


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(words_json(), encoding="utf8")
    return path


@pytest.fixture(scope="session")
def wrapped(words, tmp_path_factory):
    root = tmp_path_factory.mktemp("pix2cap")
    base = save_segmenter("mask2former", root / "base")
    return wrap_segmenter(base, root / "checkpoint", tiny_config(), language=words)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return segments_folder(tmp_path_factory.mktemp("segments") / "set")


def recipe(data, start, stage, **more):
    given = {
        "start_from": str(start),
        "stage": stage,
        "steps": 5,
        "pictures_per_step": 2,
        "learning_rate": 3e-3,
        "device": "cpu",
        "threads": 1,
        "held_out_every": 0,
        "log_every": 1,
        **more,
    }
    return Pix2CapTrainConfig(data=(MllmDataConfig(root=str(data)),), **given)


@pytest.mark.parametrize("kind", MAKERS)
def test_wrapping_changes_no_bit_of_the_segmenter(kind, words, tmp_path):
    import transformers

    base = save_segmenter(kind, tmp_path / "base")
    out = wrap_segmenter(base, tmp_path / "checkpoint", tiny_config(), language=words)
    model = load_pix2cap(out)
    pixels = make_pixels(picture(80, 120), model.config.picture)
    alone = getattr(transformers, model.family.load).from_pretrained(base).eval()
    with torch.no_grad():
        theirs = run_segmenter(alone, pixels, model.config.task_ids)
        queries, _ = model.segment(pixels)
    assert torch.equal(queries.masks, theirs.masks_queries_logits[0])
    assert torch.equal(queries.classes, theirs.class_queries_logits[0])
    assert queries.features.std(0).max() > 0, "queries that are all alike prove nothing"
    prefix = model.make_prefix(queries, torch.tensor([0, 3]))
    assert prefix.shape == (2, 2, 32)


def test_selection_is_that_of_transformers(wrapped):
    """Their function forgets the queries; map, classes and scores must be the same."""
    from transformers import Mask2FormerImageProcessorPil as Processor

    engine = open_pix2cap(wrapped, device="cpu")
    config = engine.model.config.selection
    draw = torch.Generator().manual_seed(1)
    frame = engine.encode(picture(64, 96))
    queries = frame.queries._replace(
        classes=3 * torch.randn(6, 5, generator=draw),
        masks=4 * torch.randn(6, 4, 6, generator=draw),
    )
    ours = select_segments(queries, (64, 96), config)
    output = type("Output", (), {})()
    output.class_queries_logits = queries.classes[None]
    output.masks_queries_logits = queries.masks[None]
    theirs = Processor().post_process_panoptic_segmentation(
        output,
        threshold=config.object_score,
        mask_threshold=config.mask,
        overlap_mask_area_threshold=config.overlap,
        label_ids_to_fuse=set(),
        target_sizes=[(64, 96)],
    )[0]
    found = {
        (row["label_id"], round(row["score"], 4), int((theirs["segmentation"] == row["id"]).sum()))
        for row in theirs["segments_info"]
    }
    plain = select_segments(
        queries, (64, 96), SelectionConfig(object_score=0.2, mask=0.1, overlap=0.2)
    )
    assert len(plain.kept) > 2
    assert found == {
        (one.label, round(one.score, 4), int((plain.ids == one.number).sum())) for one in plain.kept
    }
    labels = [one.label for one in ours.kept]
    assert all(labels.count(label) <= 1 for label in config.stuff), "stuff is joined by class"


def test_captions_of_kept_segments_are_those_of_captioning_all(wrapped):
    """The paper captions all queries and filters; here only what is kept is said."""
    engine = open_pix2cap(wrapped, device="cpu")
    frame = engine.encode(picture(64, 96, seed=2))
    kept = [one.query for one in frame.selected.kept]
    assert 0 < len(kept) < 6
    some = {e.row: e for e in engine.caption_queries(frame, kept) if isinstance(e, RowDone)}
    every = {e.row: e for e in engine.caption_queries(frame, range(6)) if isinstance(e, RowDone)}
    for row, query in enumerate(kept):
        assert some[row].text == every[query].text
        assert some[row].n_tok == every[query].n_tok
    assert len({every[q].text for q in range(6)}) > 1, "captions that are all alike prove nothing"
    masks = [np.asarray(frame.selected.ids == one.number) for one in frame.selected.kept]
    assert [find_query(frame, mask) for mask in masks] == kept
    regions = [RegionInput(mask, max_new_tokens=8) for mask in masks]
    done = {e.row: e.text for e in engine.caption(frame, regions) if isinstance(e, RowDone)}
    assert done == {row: one.text for row, one in some.items()}


def test_stages_learn_their_parts_and_lower_the_loss(wrapped, data, tmp_path):
    one = train(recipe(data, wrapped, 1), tmp_path / "one")
    names = (tmp_path / "one" / "trainable.txt").read_text().split()
    assert names
    assert all(n.startswith(("language.", "query_token.", "picture_token.")) for n in names)
    rows = [json.loads(line) for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["caption"] < rows[0]["caption"] - 0.1
    before, after = load_pix2cap(wrapped), load_pix2cap(one)
    same = zip(before.segmenter.parameters(), after.segmenter.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)

    config = recipe(data, one, 2)
    two = train(config, tmp_path / "two")
    names = (tmp_path / "two" / "trainable.txt").read_text().split()
    assert any(n.startswith("segmenter.model.transformer_module.") for n in names)
    assert not any("pixel_level_module.encoder" in n for n in names)
    rows = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["segmentation"] < rows[0]["segmentation"]
    stored = load_file(two / "learned.safetensors")
    assert set(names) <= set(stored)
    model = load_pix2cap(two)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], tensor) for name, tensor in stored.items())

    resumed = train(config, tmp_path / "cut", stop_after=3)
    train(config, tmp_path / "cut")
    again = load_file(resumed / "learned.safetensors")
    assert all(torch.equal(stored[name], again[name]) for name in stored), "resumed bit for bit"


def write_pictures(folder, count=2, *, seeds=0):
    import cv2

    folder.mkdir()
    for n in range(count):
        cv2.imwrite(str(folder / f"{n:05}.png"), picture(64, 96, seed=seeds or n + 2)[:, :, ::-1])
    return folder


def test_the_panoptic_command_takes_masks_and_words_from_a_checkpoint(wrapped, tmp_path, capsys):
    photos = write_pictures(tmp_path / "photos")
    out = tmp_path / "out"
    assert cli.main(["panoptic", str(photos), "-o", str(out), "--bundle", str(wrapped)]) == 0
    content = json.loads((out / "panoptic.json").read_text())
    engine = open_pix2cap(wrapped, device="cpu")
    for row in content["annotations"]:
        name = next(i["file_name"] for i in content["images"] if i["id"] == row["image_id"])
        frame = engine.encode(picture(64, 96, seed=int(name[:5]) + 2))
        kept = [one.query for one in frame.selected.kept]
        said = {
            neutralise(event.text)  # what a tiny random model says may be "man"
            for event in engine.caption_queries(frame, kept)
            if isinstance(event, RowDone)
        }
        assert {segment["description"] for segment in row["segments_info"]} <= said | {""}
        assert len(row["segments_info"]) == len(kept)
    said = sum(len(row["segments_info"]) for row in content["annotations"])
    told = f"{said} captions of 12 queries in 2 pictures: {12 - said} fewer"
    assert told in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_whole_path_on_two_processes_and_in_the_node(
    repository, words, data, tmp_path, monkeypatch
):
    """Wrapped by the command, stage 1 on two processes (equal to one), stage 2, run in the node."""
    import os
    import subprocess
    import sys

    base = save_segmenter("mask2former", tmp_path / "base")
    config = tmp_path / "model.yaml"
    config.write_text(
        "picture: {short_px: 64, long_px: 96}\n"
        "selection: {object_score: 0.2, mask: 0.1, overlap: 0.2, stuff: [2, 3]}\n"
        "decoder: {width: 32, layers: 2, heads: 4}\nmax_new_tokens: 8\n"
    )
    start = tmp_path / "start"
    command = ["mllm", "pix2cap", "wrap", str(base), "-o", str(start), "--language", str(words)]
    assert cli.main([*command, "--config", str(config)]) == 0
    ran = two_processes(
        repository,
        tmp_path / "one",
        {**as_plain(recipe(data, start, 1, steps=3))},
        module="ureca.models.mllm.pix2cap.train",
    )
    train(recipe(data, start, 1, steps=3), tmp_path / "alone")
    ours, alone = (
        load_file(f / "checkpoint" / "learned.safetensors") for f in (ran, tmp_path / "alone")
    )
    assert ours.keys() == alone.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)
    given = as_plain(recipe(data, ran / "checkpoint", 2, steps=2))
    done = two_processes(
        repository, tmp_path / "two", given, module="ureca.models.mllm.pix2cap.train"
    )
    clip = write_pictures(tmp_path / "clip", 40, seeds=1)
    events = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "ureca", "run", "--source", str(clip), "--no-realtime"]
    command += ["--panoptic", "--bundle", str(done / "checkpoint"), "--events", str(events)]
    command += ["--set", f"publish.events=ipc://{tmp_path}/e"]
    command += ["--set", f"publish.requests=ipc://{tmp_path}/r"]
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every frame and caption is accounted for" in ended.stdout, ended.stdout
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    finals = [row for row in rows if row["ev"] == "caption.final"]
    assert finals
    assert {row["model"] for row in finals} == {"ureca-pix2cap"}
    assert any(row["ev"] == "panoptic" for row in rows)


def as_plain(config):
    from ureca.config import to_plain

    return to_plain(config)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_segmenter_and_decoder_are_exported_with_parity(wrapped, tmp_path, capsys):
    assert cli.main(["export", str(wrapped), "-o", str(tmp_path / "graphs"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["graphs"]) == {"segment", "words"}
    assert all(one["difference"] < 1e-3 for one in report["graphs"].values())
    assert report["words_equal"] == 1
