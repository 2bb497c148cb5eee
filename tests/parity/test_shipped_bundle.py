"""The bundle in the repository: whole, small, proven, quick with many regions, often right."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="running a bundle needs the extra `node`")

from ureca.bundle import load_manifest, verify_files
from ureca.datatypes import RegionInput, RowDone
from ureca.models.bench.arms import Naive, Shared
from ureca.models.bench.scenes import make_scenes
from ureca.models.bench.timing import measure_arms
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, read_regions
from ureca.models.evaluation.caption import Captioned, caption_records
from ureca.models.runtime.load import load_engine


@pytest.fixture(scope="module")
def shipped(repository):
    folder = repository / "models" / "pretrained" / "ureca-nano"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no bundle is shipped yet: {folder / 'manifest.json'} is absent")
    return folder


@pytest.fixture(scope="module")
def engine(shipped):
    return load_engine(shipped, threads=1)


def test_it_is_whole_small_and_proven(shipped):
    manifest = load_manifest(shipped)
    paths = verify_files(shipped, manifest)
    # 7 MB of it score texts: no int8 graph of 0.6 was true enough
    assert sum(path.stat().st_size for path in paths.values()) <= 34e6
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 60e6
    report = json.loads((shipped / "parity.json").read_text())
    assert report["failures"] == []
    assert report["checkpoint_sha256"] == manifest.checkpoint_sha256
    assert report["float32"]["regions"] >= 200
    assert report["float32"]["max_abs_logit_diff"] <= 1e-3
    assert report["float32"]["caption_exact"] == 1.0
    assert report["bundle"]["teacher_forced"] >= 0.98


def test_it_captions_a_blank_picture_without_failing(engine):
    frame = engine.encode(np.full((480, 640, 3), 90, np.uint8))
    mask = np.zeros((480, 640), np.bool_)
    mask[100:200, 300:400] = True
    styles = ("short", "long")
    events = list(engine.caption(frame, [RegionInput(mask, style=style) for style in styles]))
    ends = [event for event in events if isinstance(event, RowDone)]
    assert {end.stop for end in ends} <= {"eos", "length"}
    assert all(0.0 < end.score <= 1.0 for end in ends)


def test_eight_regions_share_most_of_the_work(engine):
    """`ureca bench engine` shows the figure; here only that sharing has not been lost."""
    arms = [Shared(engine, bundle="shipped"), Naive(engine, bundle="shipped")]
    rows = measure_arms(arms, make_scenes(frames=3, regions=8, tokens=8))
    assert rows[1].times_shared > 2.0


@pytest.mark.data
def test_it_names_common_things_in_photographs_it_never_saw(engine, data_root):
    regions = data_root / "regions-train.jsonl.gz"
    if not regions.exists():
        pytest.skip(f"no {regions.name} in {data_root}")
    unseen = (r for r in read_regions(regions) if r.is_held_out(HELD_OUT_EVERY))
    held_out = (r for r in unseen if r.short and r.category)
    records = [record for record, _ in zip(held_out, range(120), strict=False)]
    store = ImageStore([data_root / "images"])
    results = list(caption_records(engine, store, records, style="short"))
    named = {r.region_id: r.caption for r in results if isinstance(r, Captioned)}
    assert len(named) == len(records)
    right = sum(r.category in named[r.region_id].split() for r in records)
    assert right / len(records) > 0.2
    assert len(set(named.values())) / len(named) > 0.3
