"""What a run writes: annotated video, recordings, and words on the terminal."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.node.video_rig import clip
from ureca.errors import ConfigError
from ureca.node.cli.run import main
from ureca.testing import ScriptedEngine

pytest.importorskip("PIL")


def run(folder: Path, source: Path, *more: str) -> int:
    addresses = [f"publish.{key}=ipc://{folder}/{key}" for key in ("events", "requests")]
    sets = [word for one in addresses for word in ("--set", one)]
    command = ["--source", str(source), "--no-realtime", *sets, *more]
    return main(command, engine_of=lambda _: ScriptedEngine())


@pytest.mark.parametrize("fps", [10, 60])
def test_a_rendered_video_is_h264_at_the_rate_of_the_clip(tmp_path: Path, fps: int) -> None:
    source = clip(tmp_path / "a.mp4", 2 * fps, base=Fraction(1, fps))
    out = tmp_path / "out.mp4"
    assert run(tmp_path, source, "--box", "8,8,60,60", "--render", str(out), "--quiet") == 0
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == fps
        assert video.frames == 2 * fps
        assert float(video.duration * video.time_base) == pytest.approx(2.0, abs=0.05)
        assert next(container.decode(video=0)).colorspace == 1, "the matrix is stated"


def test_a_recording_is_not_overwritten_unless_told_so(tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    source, record = clip(tmp_path / "a.mp4", 3), tmp_path / "r.mcap"
    record.write_bytes(b"an older recording")
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path, source, "--record", str(record), "--quiet")
    assert record.read_bytes() == b"an older recording"
    box = ("--box", "8,8,60,60")
    assert run(tmp_path, source, *box, "--record", str(record), "--overwrite", "--quiet") == 0
    assert record.read_bytes().startswith(b"\x89MCAP0")
    record.unlink()
    assert run(tmp_path, source, *box, "--record", str(record), "--quiet") == 0


def test_labels_reach_the_terminal_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "p.json"
    label = "cup\x1b[31m\nevil\u202e\x07"
    prompts.write_text(json.dumps([{"frame": 0, "box": [8, 8, 60, 60], "label": label}]))
    assert run(tmp_path, clip(tmp_path / "a.mp4", 3), "--prompts", str(prompts)) == 0
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert "\nevil" not in text
    assert r"cup\x1b[31m\nevil\u202e\x07" in shown.out
