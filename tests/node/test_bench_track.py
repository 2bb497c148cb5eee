from __future__ import annotations

import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from tests.node.conftest import Scene
from ureca.errors import ConfigError
from ureca.node.bench.davis_metrics import boundary, boundary_f, jaccard, score
from ureca.node.bench.track import is_hallucinated, measured
from ureca.node.bench.track_cli import main


def square(left: int, *, side: int = 40) -> np.ndarray:
    mask = np.zeros((240, 320), np.bool_)
    mask[100 : 100 + side, left : left + side] = True
    return mask


NONE = np.zeros((240, 320), np.bool_)


def test_region_similarity_is_intersection_over_union() -> None:
    assert jaccard(square(100), square(100)) == 1.0
    assert jaccard(square(100), square(120)) == pytest.approx(1 / 3)
    assert jaccard(square(100), NONE) == 0.0
    assert jaccard(NONE, NONE) == 1.0


def test_boundaries_match_within_the_benchmarks_tolerance() -> None:
    # 0.8 % of a diagonal of 400 pixels is 3.2, rounded up: 4.
    assert boundary_f(square(100), square(104)) == 1.0
    assert 0.4 < boundary_f(square(100), square(106)) < 0.9
    assert boundary_f(square(20), square(200)) == 0.0
    assert boundary_f(square(20), NONE) == 0.0
    assert boundary_f(NONE, NONE) == 1.0
    assert boundary(square(100)).sum() == 4 * 40


def test_first_and_last_frame_do_not_count() -> None:
    truths = [square(100)] * 4
    result = score([NONE, square(100), NONE, NONE], truths)
    assert (result.j, result.f, result.frames) == (0.5, 0.5, 2)
    assert result.jf == 0.5
    with pytest.raises(ValueError, match="at least 3"):
        score(truths[:2], truths[:2])


def test_a_full_frame_over_a_small_thing_is_a_hallucination() -> None:
    assert is_hallucinated(np.ones_like(NONE), square(100))
    assert is_hallucinated(np.ones_like(NONE), NONE)
    assert not is_hallucinated(np.ones_like(NONE), np.ones_like(NONE))
    assert not is_hallucinated(square(90), square(100))


@pytest.fixture
def clips(tmp_path):
    scene, folder = Scene(), tmp_path / "clips"
    folder.mkdir()
    with tarfile.open(folder / "disc.tar", "w") as tar:
        for seq in range(8):
            picture = cv2.cvtColor(scene.frame(seq).image, cv2.COLOR_RGB2BGR)
            mask = scene.mask(seq).astype(np.uint8) * 255
            for name, pixels in (("frames", picture), ("masks", mask)):
                data = cv2.imencode(".png", pixels)[1].tobytes()
                info = tarfile.TarInfo(f"{name}/{seq:05d}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def test_a_clip_is_followed_and_judged(clips) -> None:
    row = measured(clips / "disc.tar", "flow", None, every=5)
    assert (row.clip, row.frames, row.lost, row.hallucinated) == ("disc", 8, 0, 0)
    assert 0.7 < row.j <= 1
    assert 0.7 < row.f <= 1


def test_the_command_prints_a_table_and_json_and_reads_its_own_reports(
    clips, tmp_path, capsys
) -> None:
    out = tmp_path / "out.json"
    assert main([str(clips), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| disc | 8 |" in text
    assert json.loads(text.splitlines()[-1]) == json.loads(out.read_text())
    assert main(["--load", str(out)]) == 0
    assert capsys.readouterr().out == text
    for argv in ([], [str(tmp_path)], [str(clips), "--modes", "magic"], ["--load", str(clips)]):
        with pytest.raises(ConfigError):
            main(argv)
