"""World captions judged against the scene, and flicker over a clip."""

import gzip
import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from ureca.errors import SourceError
from ureca.models.data.regions import RegionRecord
from ureca.models.data.synthetic.language.truth import NodeTruth, ViewTruth
from ureca.models.evaluation.measures.flicker import (
    AnnotatedClip,
    caption_clip,
    list_clips,
    measure_flicker,
    read_tracker_masks,
)
from ureca.models.evaluation.measures.scenes import (
    compute_slot_figures,
    judge_all,
    list_scene_files,
    read_views,
)
from ureca.models.evaluation.test_set import EvaluationCase
from ureca.protocol import rle
from ureca.testing import ScriptedEngine, SyntheticSource


def thing(node, kind, colour, **fields):
    return NodeTruth(
        node=node, type="object", kind=kind, nouns=(kind,), words=frozenset({colour}), **fields
    )


def world_case(key):
    return EvaluationCase(
        RegionRecord(
            region_id=f"view_{key}",
            image_key="view",
            shard="",
            source="ureca-worlds",
            height=4,
            width=4,
            counts="",
            box_xywh_px=(0, 0, 4, 4),
        )
    )


@pytest.fixture
def views(tmp_path):
    nodes = [
        thing("o0", "mug", "red"),
        thing("o1", "mug", "blue", held_back=True),
        thing("o2", "bowl", "green"),
    ]
    view = ViewTruth("view", "test", {node.node: node for node in nodes})
    with gzip.open(tmp_path / "scenes-test.jsonl.gz", "wt", encoding="utf8") as out:
        out.write(json.dumps(view.to_json()) + "\n")
    return read_views(list_scene_files(tmp_path), ["view"])


def test_slots_are_judged_against_the_scene(views):
    cases = [world_case(name) for name in ("o0", "o1", "o2")]
    said = {"view_o0": "a red mug", "view_o1": "a mug", "view_o2": "a red vase"}
    figures = compute_slot_figures(judge_all(cases, said, views))
    everything = figures["all"]
    assert (everything["n"], everything["kind"]) == (3, pytest.approx(2 / 3))
    assert (everything["colour"], everything["n_colour"]) == (0.5, 2)
    assert everything["true"] == pytest.approx(2 / 3)
    assert everything["unique"] == pytest.approx(1 / 3)  # "a mug" fits both mugs
    assert everything["relation"] is None
    assert (figures["held-back look"]["n"], figures["known look"]["n"]) == (1, 2)


def test_what_cannot_be_read_has_named_its_thing_wrongly(views):
    judged = judge_all([world_case("o0")], {"view_o0": "qwerty of of"}, views)
    assert compute_slot_figures(judged)["all"]["kind"] == 0.0
    assert judge_all([world_case("o9")], {"view_o9": "a mug"}, views) == []


def write_clip(path, source):
    with tarfile.open(path, "w") as tar:
        for seq in range(source.frames):
            masks = source.masks(seq)
            mask = masks.get("red", np.zeros_like(next(iter(masks.values()))))
            bgr = cv2.cvtColor(source.image(seq), cv2.COLOR_RGB2BGR)
            for name, image in (
                (f"frames/{seq:05d}.webp", bgr),
                (f"masks/{seq:05d}.png", mask.astype(np.uint8) * 255),
            ):
                data = cv2.imencode(name[-5:], image)[1].tobytes()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "box.tar", SyntheticSource(frames=7, things=1))
    return AnnotatedClip(list_clips(tmp_path)[0])


def test_a_steady_thing_does_not_flicker(clip):
    said = caption_clip(ScriptedEngine(), clip, clip.mask, every=3)
    assert said.frames == (0, 3, 6)
    assert set(said.captions) == {"a red thing"}
    figures = measure_flicker([said])
    assert figures["all"] == {"n": 2, "changed": 0.0, "words_changed": 0.0, "head_changed": 0.0}
    assert figures["box"]["distinct"] == 1


def test_a_trackers_masks_replace_the_true_ones(clip, tmp_path):
    shape = clip.image(0).shape[:2]
    rows = []
    for frame in (0, 3):
        code = rle.encode(np.ones(shape, np.bool_) if frame else clip.mask(0))
        rows.append({"frame": frame, "size": list(code.size), "counts": code.counts})
    (tmp_path / "box.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = caption_clip(ScriptedEngine(), clip, read_tracker_masks(tmp_path, "box"), every=3)
    assert said.frames == (0, 3)
    figures = measure_flicker([said])["all"]
    assert (figures["n"], figures["changed"]) == (1, 1.0)
    assert 0 < figures["words_changed"] < 1


def test_clips_and_masks_that_are_wrong_are_named(clip, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"frame": 0}\n')
    with pytest.raises(SourceError, match=r"bad\.jsonl:1"):
        read_tracker_masks(tmp_path, "bad")
    with pytest.raises(SourceError, match="no tracker masks"):
        read_tracker_masks(tmp_path, "absent")
    with pytest.raises(SourceError, match="frames/00099"):
        clip.image(99)
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    with pytest.raises(SourceError, match="cannot read the clip"):
        AnnotatedClip(tmp_path / "broken.tar")
