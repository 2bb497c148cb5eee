from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.conftest import Scene
from ureca.errors import ConfigError
from ureca.node.bench.generated_scenes import KINDS, generate
from ureca.node.bench.presence import judge
from ureca.node.bench.track_cli import main

HERE = np.zeros((40, 60), np.bool_)
HERE[10:30, 10:30] = True
THERE = np.roll(HERE, 25, axis=1)
NOWHERE = np.zeros_like(HERE)


def test_a_region_without_its_object_and_one_elsewhere_are_told_apart() -> None:
    truths = [HERE, HERE, NOWHERE, NOWHERE, NOWHERE, HERE, HERE, HERE]
    masks = [HERE, THERE, THERE, THERE, None, None, HERE, HERE]
    found = judge(masks, truths)
    assert (found.frames, found.absent, found.present) == (7, 3, 4)
    assert (found.absent_tracked, found.off_target, found.present_lost) == (2, 1, 1)
    assert (found.lost_after, found.back_after) == ((2,), (1,))
    assert found.j == pytest.approx(0.5)


def test_what_is_never_lost_nor_found_again_has_no_delay() -> None:
    truths = [HERE, NOWHERE, NOWHERE, HERE, HERE]
    found = judge([HERE, HERE, HERE, THERE, None], truths)
    assert (found.lost_after, found.back_after) == ((None,), (None,))


def test_a_part_of_an_object_may_be_alive_or_lost() -> None:
    for mask in (HERE, None):
        found = judge([HERE, mask], [HERE, HERE], [1.0, 0.1])
        assert (found.absent_tracked, found.off_target, found.present_lost) == (0, 0, 0)


def test_a_region_on_another_followed_object_is_swapped() -> None:
    found = judge([HERE, THERE], [HERE, HERE], None, [[THERE, THERE]])
    assert found.swapped == 1
    assert judge([HERE, HERE], [HERE, HERE], None, [[HERE, HERE]]).swapped == 0


def test_numbers_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 masks, 1 truths"):
        judge([HERE, HERE], [HERE])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, still in (("disc", 0), ("other", 6)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for seq in range(3):
                picture = cv2.cvtColor(Scene().frame(seq + still).image, cv2.COLOR_RGB2BGR)
                mask = Scene().mask(seq + still).astype(np.uint8) * 255
                for part, pixels in (("frames", picture), ("masks", mask)):
                    data = cv2.imencode(".png", pixels)[1].tobytes()
                    info = tarfile.TarInfo(f"{part}/{seq:05d}.png")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def test_the_same_seed_makes_the_same_clip(clips: Path) -> None:
    tars = sorted(clips.glob("*.tar"))
    for kind in KINDS:
        one, again = generate(tars, kind, 3), generate(tars, kind, 3)
        assert all(
            np.array_equal(a.image, b.image)
            for a, b in zip(one.frames[::20], again.frames[::20], strict=True)
        )
        other = generate(tars, kind, 4)
        assert not np.array_equal(one.frames[0].image, other.frames[0].image)


def test_things_leave_hide_and_stay_as_their_kind_says(clips: Path) -> None:
    tars = sorted(clips.glob("*.tar"))
    for seed in range(3):
        for kind in ("leaves", "pillar", "covered"):
            shares = generate(tars, kind, seed).shares["object"]
            assert shares[0] > 0.8
            assert min(shares) == 0.0, (kind, seed)
        assert min(generate(tars, "stops", seed).shares["object"]) > 0.8
        twins = generate(tars, "twins", seed)
        assert set(twins.truths) == {"object", "other"}
        assert min(twins.shares["other"]) < 0.9


def test_the_command_reports_each_kind(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clips), "--generated", "stops,leaves", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[2].startswith("| stops | 1 |")
    rows = json.loads(printed[-1])["rows"]
    assert [row["kind"] for row in rows] == ["stops", "leaves"]
    assert all(row["frames"] == 95 for row in rows)


def test_unknown_kinds_and_too_few_clips_are_refused(clips: Path) -> None:
    for wrong in (["--generated", "flies"], ["--generated", "--half", "first"]):
        with pytest.raises(ConfigError, match="kinds of leaves"):
            main([str(clips), *wrong])
