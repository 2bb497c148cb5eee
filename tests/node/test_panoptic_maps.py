"""`ureca panoptic --coco`: the maps of a running node and of a recording, ids those of regions."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.bridges.segment_maps import ROWS, make_event, make_ids
from tests.node.test_panoptic import PLAIN, FewFrames
from tests.node.test_record import record
from tests.ports import free_port
from ureca.clock import MonotonicClock
from ureca.config import from_plain
from ureca.models.evaluation.panoptic.coco_files import read_coco_panoptic
from ureca.models.evaluation.panoptic.videos import judge_videos, read_video_frames
from ureca.node.cli.panoptic import main
from ureca.node.cli.panoptic_maps import MapWriter
from ureca.node.config import NodeConfig
from ureca.node.node import Node
from ureca.testing import ScriptedEngine, SyntheticSource


def rows_of(path: Path) -> list[dict[str, dict]]:
    file = json.loads(path.read_text())
    return [{row["rid"]: row for row in one["segments_info"]} for one in file["annotations"]]


def test_regions_keep_their_id_and_new_ones_get_new_ids(tmp_path: Path) -> None:
    writer = MapWriter(tmp_path, None)
    writer.take(make_event())
    cup, table, wall = ROWS
    moved = make_ids(cup_x=2)
    swapped = np.where(moved == 3, 9, np.where(moved == 7, 3, moved))  # other numbers of the map
    new = (
        msgspec.structs.replace(cup, n=9, rid="mug", caption=None),
        msgspec.structs.replace(table, n=3),
        wall,
    )
    writer.take(make_event(new, seq=12, ids=swapped))
    writer.take(make_event(new, seq=13, stream="other"))
    path = writer.close()
    first, second = rows_of(path)
    assert len(writer) == 2
    assert first["table"]["id"] == second["table"]["id"]
    assert second["mug"]["id"] not in {row["id"] for row in first.values()}
    assert first["cup"]["description"] == "a red cup"
    assert second["mug"]["reason"] == "no caption before the next map"
    assert [row["isthing"] for row in first.values()] == [1, 0, 0]
    one, two = read_coco_panoptic(path)
    assert (one.frame, two.frame, one.video) == (7, 12, "0")
    assert one.ids.shape == (24, 32)
    for found, rows in ((one, first), (two, second)):
        areas = np.bincount(found.ids.ravel(), minlength=10)
        assert {row["id"]: row["area"] for row in rows.values()} == {
            n: int(areas[n]) for n in np.unique(found.ids) if n
        }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mcap.reader", reason="needs the extra `record`")
    path, _, _ = record(
        tmp_path_factory.mktemp("record"),
        list(SyntheticSource(frames=40, things=3, seed=4, with_regions="never")),
        sections=PLAIN,
        engine=ScriptedEngine(),
        is_lossless=True,
    )
    return path


def test_a_recorded_run_is_judged_over_time(tmp_path: Path, recorded: Path, capsys) -> None:
    out = tmp_path / "maps"
    assert main(["--coco", str(out), "--recording", str(recorded)]) == 0
    assert "maps\n" in capsys.readouterr().out
    rows = rows_of(out / "panoptic.json")
    assert len(rows) >= 6
    assert all(row["description"] for one in rows[:-1] for row in one.values())
    frames, count = read_video_frames(out / "panoptic.json", out / "panoptic.json")
    assert len(frames) == count == len(rows)
    found = judge_videos(frames)
    assert found["vpq"] == found["stq"] == 1.0
    assert found["ids_kept"]["things"]["n"] >= 3 * 6


def test_a_running_node_is_followed(tmp_path: Path, capsys) -> None:
    events, requests = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    publish = {"events": events, "requests": requests}
    config = from_plain(NodeConfig, {**PLAIN, "publish": publish})
    node = Node(
        config,
        ScriptedEngine(),
        clock=MonotonicClock(),
        open_frames=lambda *given: [FewFrames(*given)],
    )
    node.start()
    out = tmp_path / "maps"
    try:
        words = ["--coco", str(out), "--events", events, "--requests", requests]
        assert main([*words, "--duration", "4"]) == 0
    finally:
        node.close()
    rows = rows_of(out / "panoptic.json")
    assert len(rows) >= 2
    ids = {row["rid"]: row["id"] for one in rows for row in one.values()}
    assert len(set(ids.values())) == len(ids) >= 4  # on a busy machine one may begin anew
    assert all(row["id"] == ids[row["rid"]] for one in rows for row in one.values())
    last = rows[-1].values()  # what began on the last map may have no words yet
    told = "no caption before the next map"
    assert all(row["description"] or row["reason"] == told for row in last)
    assert any(row["description"] for one in rows for row in one.values())


def test_nobody_there_is_told(tmp_path: Path, capsys) -> None:
    events, requests = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    words = ["--coco", str(tmp_path), "--events", events, "--requests", requests]
    assert main([*words, "--duration", ".3"]) == 1
    assert "does the node run with --panoptic?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["photos"])
