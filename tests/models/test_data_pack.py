"""Packed masks: equal to the masks, made once, safe to interrupt, never half-read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tqdm import tqdm

from ureca.errors import SourceError
from ureca.models.config import make_tiny_config
from ureca.models.data import pack
from ureca.models.data.pack import load_or_pack_masks
from ureca.models.data.regions import RegionRecord
from ureca.models.preprocess import Grid, compute_box_norm, make_mask_tiles
from ureca.protocol import rle

VISION = make_tiny_config().vision


@pytest.fixture(autouse=True)
def _small_saves_and_no_tqdm_thread(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    monkeypatch.setattr(pack, "_ROWS_PER_SAVE", 4)


def masks(rng, count=10):
    out = rng.random((count, 24, 40)) < 0.3
    out[3] = False
    return out


def record(mask, number=0):
    return RegionRecord(
        region_id=f"r{number}",
        image_key="p",
        shard="",
        source="",
        height=mask.shape[0],
        width=mask.shape[1],
        counts=rle.encode(mask).counts,
        box_xywh_px=(0, 0, 1, 1),
    )


def test_it_holds_what_the_masks_are(tmp_path, rng):
    drawn = masks(rng)
    packed = load_or_pack_masks([record(m) for m in drawn], VISION, tmp_path)
    assert packed.ok.tolist() == [i != 3 for i in range(10)]
    for row in (0, 9):
        tile = make_mask_tiles(drawn[row], Grid(1, 1), VISION)[0]
        assert (packed.unpack_tiles([row])[0] == tile.astype(bool)).all()
        assert (packed.mask_bits[row] == np.packbits(tile.astype(bool))).all()
        assert (packed.box_norm[row] == compute_box_norm(drawn[row])).all()
    assert packed.unpack_tiles([9, 0, 9]).shape == (3, VISION.mask_px, VISION.mask_px)
    assert not packed.mask_bits.flags.writeable
    assert len(packed) == 10


def test_a_second_time_nothing_is_decoded(tmp_path, rng, monkeypatch):
    records = [record(m) for m in masks(rng)]
    first = load_or_pack_masks(records, VISION, tmp_path)
    monkeypatch.setattr(pack, "_pack_row", None)
    again = load_or_pack_masks([replace(r, region_id="another") for r in records], VISION, tmp_path)
    assert (first.mask_bits == again.mask_bits).all()


def test_other_masks_and_other_tiles_are_other_files(tmp_path, rng):
    records = [record(m) for m in masks(rng)]
    load_or_pack_masks(records, VISION, tmp_path)
    load_or_pack_masks(records[::-1], VISION, tmp_path)
    larger = replace(VISION, tile_px=128, mask_px=64)
    assert load_or_pack_masks(records, larger, tmp_path).mask_bits.shape == (10, 64 * 64 // 8)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, rng, monkeypatch):
    records, real = [record(m) for m in masks(rng)], pack._pack_row
    rows = []

    def interrupted(arrays, row, *rest):
        if row == 6 and len(rows) < 7:
            raise KeyboardInterrupt
        rows.append(row)
        real(arrays, row, *rest)

    monkeypatch.setattr(pack, "_pack_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_or_pack_masks(records, VISION, tmp_path)
    rows.append(-1)
    packed = load_or_pack_masks(records, VISION, tmp_path)
    assert rows == [0, 1, 2, 3, 4, 5, -1, 4, 5, 6, 7, 8, 9]
    assert (
        packed.mask_bits == load_or_pack_masks(records, VISION, tmp_path / "anew").mask_bits
    ).all()


@pytest.mark.parametrize("damage", ["cut", "no note", "wrong note", "missing"])
def test_damaged_files_are_made_again(tmp_path, rng, damage):
    records = [record(m) for m in masks(rng)]
    good = load_or_pack_masks(records, VISION, tmp_path / "good")
    load_or_pack_masks(records, VISION, tmp_path / "bad")
    home = next((tmp_path / "bad").iterdir())
    bits = home / "mask_bits.npy"
    if damage == "cut":
        bits.write_bytes(bits.read_bytes()[:-100])
    elif damage == "missing":
        bits.unlink()
    elif damage == "no note":
        (home / "progress.json").unlink()
    else:
        (home / "progress.json").write_text(json.dumps([1]))
    again = load_or_pack_masks(records, VISION, tmp_path / "bad")
    assert (again.mask_bits == good.mask_bits).all()
    assert (again.ok == good.ok).all()


def test_a_broken_code_is_left_out_and_a_wrong_folder_named(tmp_path, rng):
    broken = replace(record(masks(rng)[0]), counts="~~~~")
    assert load_or_pack_masks([broken], VISION, tmp_path / "p").ok.tolist() == [False]
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot keep"):
        load_or_pack_masks([broken], VISION, tmp_path / "file")
    with pytest.raises(SourceError, match="none"):
        load_or_pack_masks([], VISION, tmp_path)
