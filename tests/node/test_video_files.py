"""Video files as people have them: every picture with its own stamp, or a counted reason."""

from __future__ import annotations

import fractions
import io
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.node.video_rig import clip, encode, number_of, numbered, play
from ureca.clock import ManualClock
from ureca.errors import SourceError
from ureca.node.cli.run_options import build_parser, resolve_config
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import SourceStatus
from ureca.node.sources.factory import open_source

ROOT = Path(__file__).resolve().parents[2]
MAKE_AV1 = """
import sys
from pathlib import Path
from tests.node.video_rig import clip
clip(Path(sys.argv[1]), 6, codec="libsvtav1", options={"preset": "10", "crf": "12"})
"""
FIELD = Path(__file__).parents[3] / "shared" / "field"
MIXED_STEPS = [0, 1, 2, 5, 6, 30, 31, 32]


def damaged(path: Path, begin: float, end: float, seed: int = 1) -> Path:
    """A part of a file overwritten with noise."""
    data = bytearray(path.read_bytes())
    part = slice(int(len(data) * begin), int(len(data) * end))
    noise = np.random.default_rng(seed).integers(0, 256, part.stop - part.start, np.uint8)
    data[part] = noise.tobytes()
    path.write_bytes(data)
    return path


def test_variable_stamps_are_kept_to_the_millisecond(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 8, stamps=MIXED_STEPS, base=fractions.Fraction(1, 25))
    played = play(path)
    assert played.numbers == list(range(8))
    assert played.times_ms == [40 * step for step in MIXED_STEPS]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_interlaced_video_is_deinterlaced_and_keeps_its_rate(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name == "a.avi" else "libx264"
    flags = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264-params": "tff=1"}
    path = clip(tmp_path / name, 8, codec=codec, options=flags)
    with av.open(str(path)) as container:
        assert all(frame.interlaced_frame for frame in container.decode(video=0))
    played = play(path)
    assert played.numbers == list(range(8))
    assert played.times_ms[-1] == pytest.approx(7000 / 24, abs=2)
    assert played.damaged == 0


def test_fields_of_two_times_leave_no_comb(tmp_path: Path) -> None:
    """A bar that moves between the two fields of a frame is torn; deinterlaced it is whole."""
    pictures = []
    for number in range(6):
        both = np.full((96, 160, 3), 40, np.uint8)
        for field in (0, 1):
            left = 20 + 8 * (2 * number + field)
            both[field::2, left : left + 20] = 220
        pictures.append(both)
    path = encode(tmp_path / "a.mp4", pictures, options={"x264-params": "tff=1", "crf": "4"})
    for frame in play(path).frames[1:-1]:
        rows = frame.image[..., 1].astype(int)
        torn = np.abs(rows[1:-1:2] - (rows[:-2:2] + rows[2::2]) / 2)
        assert (torn > 60).mean() < 0.02
    rows = pictures[2][..., 1].astype(int)
    assert (np.abs(rows[1:-1:2] - (rows[:-2:2] + rows[2::2]) / 2) > 60).mean() > 0.08


@pytest.mark.parametrize("begin", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    ("name", "codec", "least"),
    [("a.ts", "libx264", 40), ("a.avi", "mjpeg", 40), ("a.mkv", "libx264", 12)],
)
def test_a_damaged_spot_costs_its_pictures_and_is_said(
    tmp_path: Path,
    name: str,
    codec: str,
    least: int,
    begin: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`least`: a little below what the program `ffmpeg` decodes of the same bytes."""
    fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = clip(tmp_path / name, 60, codec=codec, pix_fmt=fmt, options={"g": "10"})
    with caplog.at_level(logging.WARNING):
        played = play(damaged(path, begin, begin + 0.1))
    numbers = [number for number in played.numbers if number is not None]
    assert len(numbers) >= least
    assert numbers[:3] == [0, 1, 2]
    assert begin == 0.8 or numbers[-1] == 59
    assert max(played.waits_s) <= 5.0
    assert "damaged" in caplog.text or "missing" in f"{caplog.text} {played.failure}"


def test_an_mp4_says_how_many_pictures_were_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip(tmp_path / "a.mp4", 60, options={"g": "60", "bf": "0", "crf": "10"})
    with caplog.at_level(logging.WARNING):
        played = play(damaged(path, 0.35, 0.45))
    assert len(played.frames) + played.damaged == 60
    assert 2 <= played.damaged <= 30
    assert f"{played.damaged} of 60 pictures are damaged" in caplog.text
    assert played.failure is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_is_cut_off_is_an_error_after_its_last_picture(
    tmp_path: Path, name: str
) -> None:
    front = {"movflags": "faststart"} if name == "a.mp4" else {}
    noise = np.random.default_rng(3).integers(0, 60, (96, 160, 3), np.uint8)
    images = [np.roll(noise, 7 * n, 0) // 2 + numbered(n) // 2 for n in range(240)]
    path = encode(tmp_path / name, images, options={"crf": "20"}, container_options=front)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    played = play(path)
    assert 20 < len(played.frames) < 200
    assert played.numbers[:20] == list(range(20))
    assert "missing or damaged" in str(played.failure)
    if name == "a.mp4":
        assert " of 240 pictures" in str(played.failure)
    looped = play_passes(path, 3)
    assert looped > 3 * 20


def play_passes(path: Path, passes: int) -> int:
    """Frames of a looped clip until so many passes have begun."""
    config = NodeConfig(source=SourceConfig(uri=str(path), loop=True, realtime=False))
    source = open_source(config, clock=ManualClock(), counters=NodeCounters(), wait=lambda _: False)
    sessions: set[bytes] = set()
    count = 0
    for frame in source.frames():
        sessions.add(frame.session_id)
        if len(sessions) > passes:
            return count
        count += 1
    return count


def test_a_gap_of_an_hour_is_shortened_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = [*range(12), *(24 * 3600 + n for n in range(12))]
    path = clip(tmp_path / "a.mp4", 24, stamps=stamps)
    with caplog.at_level(logging.WARNING):
        played = play(path)
    assert played.numbers == list(range(24))
    assert max(played.waits_s) <= 5.0
    assert sum(played.waits_s) < 7
    assert "3599.5 s later" in caplog.text
    assert "source.max_gap_s" in caplog.text
    assert max(play(path, max_gap_s=1.0).waits_s) <= 1.0


def test_a_long_wait_that_is_kept_is_a_reason_of_health(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 4, stamps=[0, 1, 24 * 600, 24 * 600 + 1])
    clock, seen = ManualClock(), []
    config = NodeConfig(source=SourceConfig(uri=str(path), max_gap_s=0))

    def wait(seconds: float) -> bool:
        seen.extend(status.reasons())
        clock.advance(ns=round(seconds * 1e9))
        return False

    source = open_source(config, clock=clock, counters=NodeCounters(), wait=wait)
    status = SourceStatus([source])
    assert len(list(source.frames())) == 4
    assert seen == ["cam0: the next picture is due in 600 s"]
    assert status.reasons() == ()


@pytest.mark.parametrize("first_s", [100, 9000])
def test_stamps_that_jump_forward_or_back_go_on_after_a_step(tmp_path: Path, first_s: int) -> None:
    """Two transport streams put together, as recorders that restart leave them."""
    begins = [first_s * 24, (9100 - first_s) * 24]
    parts = []
    for place, begin in enumerate(begins):
        stamps = [begin + n for n in range(12)]
        images = [numbered(12 * place + n) for n in range(12)]
        part = encode(tmp_path / f"{place}.ts", images, stamps=stamps)
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    played = play(path)
    numbers = [number for number in played.numbers if number is not None]
    assert numbers == sorted(numbers)
    assert len(numbers) >= 22
    assert max(played.waits_s) <= 5.0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_phone_video_stands_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = clip(tmp_path / "a.mp4", 3, rotation=(degrees, mirrored), options={"crf": "8"})
    turned = np.rot90(numbered(1), degrees // 90)
    right = turned[:, ::-1] if mirrored else turned  # as the program `ffmpeg` shows it
    found = play(path).frames[1].image
    assert found.shape == right.shape
    assert np.abs(found.astype(int) - right).mean() < 4


@pytest.mark.parametrize("colour", [(1, 1), (5, 1), (1, 2), (5, 2), (9, 1)])
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_matrix_range_and_depth_give_the_colours_back(
    tmp_path: Path, colour: tuple[int, int], fmt: str
) -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    image[:48, :80], image[48:, :80] = (200, 30, 30), (30, 60, 200)
    image[:48, 80:], image[48:, 80:] = (30, 160, 40), (240, 240, 240)
    path = encode(tmp_path / "a.mkv", [image] * 3, pix_fmt=fmt, colour=colour, options={"crf": "4"})
    wrong = np.abs(play(path).frames[0].image.astype(int) - image)
    assert np.median(wrong[8:40, 8:72]) <= 7  # 3 with FFmpeg 8.1; another matrix: from 14 on
    assert wrong[56:88, 88:152].max() <= 8


def test_alpha_is_left_out(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 4, codec="ffv1", pix_fmt="bgra")
    assert play(path).numbers == [0, 1, 2, 3]


def test_pictures_that_change_their_size_in_a_stream(tmp_path: Path) -> None:
    small = clip(tmp_path / "a.h264", 6, form="h264")
    images = [numbered(6 + n, width=320, height=192) for n in range(6)]
    large = encode(tmp_path / "b.h264", images, form="h264")
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    played = play(path)
    assert played.numbers == list(range(12))
    assert {frame.image.shape for frame in played.frames} == {(96, 160, 3), (192, 320, 3)}
    assert played.times_ms[-1] == pytest.approx(11_000 / 25, rel=0.05), "no stamps: the usual rate"


def test_slides_beside_a_long_sound_track(tmp_path: Path) -> None:
    path = tmp_path / "slides.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for second in range(400):
            if second % 130 == 0:
                frame = av.VideoFrame.from_ndarray(numbered(second // 130), format="rgb24")
                frame.pts, frame.time_base = second, fractions.Fraction(1, 1)
                container.mux(video.encode(frame))
            noise = np.zeros((1, 8000), np.float32)
            heard = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 8000, second * 8000
            container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    assert play(path, realtime=False).numbers == [0, 1, 2, 3]


def test_av1_is_read(tmp_path: Path) -> None:
    """The clip is made in a process of its own: as root, SVT-AV1 gives whoever calls it real-time
    priority, and a worker of these tests that keeps it takes both cores from all others.
    """
    path = tmp_path / "a.mp4"
    command = [sys.executable, "-c", MAKE_AV1, str(path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    played = play(path)
    assert played.numbers[:3] == [0, 1, 2]
    assert (len(played.frames), played.damaged) == (6, 0)


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        heard = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        heard.sample_rate = 8000
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "damaged, empty"),
        (lambda path: path.write_bytes(bytes(range(256)) * 40), "invalid data"),
        (lambda path: path.write_bytes(clip(path, 4).read_bytes()[:-700]), "cannot open"),
        (sound_only, "no video, only audio"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(tmp_path: Path, make, words: str) -> None:
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(SourceError, match=words):
        play(path)


def test_a_video_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    """A header that claims 16384 x 16384 costs no memory."""
    image = np.zeros((16, 16, 3), np.uint8)
    path = encode(tmp_path / "a.avi", [image], codec="png", pix_fmt="rgb24")
    data = path.read_bytes()
    at = data.index(b"IHDR")
    huge = (16384).to_bytes(4, "big") * 2
    path.write_bytes(data[: at + 4] + huge + data[at + 12 :])
    with pytest.raises(SourceError, match="no readable image"):
        raise play(path).failure or SourceError("it was played")


# --- pictures in folders and tars ----------------------------------------------------------------


def jpeg(number: int) -> bytes:
    return bytes(cv2.imencode(".png", numbered(number)[..., ::-1])[1])


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


MASK = bytes(cv2.imencode(".png", np.full((96, 160), 255, np.uint8))[1])
UNPADDED = {f"frame{n}.png": jpeg(n) for n in range(12)}
HIDDEN = {"._000.png": b"\0\5\x16\7", ".hidden/0.png": MASK, "__MACOSX/._000.png": b"x"}
DAVIS = {
    **{f"frames/{n}.png": jpeg(n) for n in range(3)},
    **{f"masks/{n}.png": MASK for n in range(3)},
}


@pytest.mark.parametrize("kind", ["folder", "clip.tar", "clip.tar.gz", "clip.tgz"])
@pytest.mark.parametrize(
    ("files", "count"),
    [
        (UNPADDED, 12),
        ({**HIDDEN, **{f"{n:03}.png": jpeg(n) for n in range(3)}}, 3),
        (DAVIS, 3),
        ({**{f"{n}.png": jpeg(n) for n in range(3)}, "masks/0.png": MASK}, 3),
        ({f"set/cam/{n}.png": jpeg(n) for n in range(3)}, 3),
    ],
    ids=["unpadded", "hidden", "davis", "beside", "below"],
)
def test_folders_and_tars_play_alike_in_natural_order(
    tmp_path: Path, kind: str, files: dict[str, bytes], count: int
) -> None:
    make = folder_of if kind == "folder" else tar_of
    played = play(make(tmp_path / kind, files))
    assert played.numbers == list(range(count))
    assert played.damaged == 0


@pytest.mark.parametrize("kind", ["folder", "clip.tar", "clip.tgz"])
@pytest.mark.parametrize("given", [[], ["--box", "1,2,30,40"], ["--point", "9,9"], ["--auto"]])
def test_the_clips_own_mask_is_said_and_gives_way_to_what_is_given(
    tmp_path: Path, kind: str, given: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = (folder_of if kind == "folder" else tar_of)(tmp_path / kind, DAVIS)
    with caplog.at_level(logging.INFO, logger="ureca"):
        _, prompts = resolve_config(build_parser().parse_args(["--source", str(path), *given]))
    names = [seed.rid for seed in prompts.get(0, ())]
    assert names == (["object"] if not given else [None] * (given != ["--auto"]))
    assert ("its first mask (masks/)" in caplog.text) == (not given)


# --- forms of the address ------------------------------------------------------------------------


def test_file_uris_are_decoded(tmp_path: Path) -> None:
    path = clip(tmp_path / "my clip.mp4", 3)
    assert play(path.as_uri()).numbers == [0, 1, 2]
    assert "%20" in path.as_uri()


@pytest.mark.parametrize("text", ["7", "/dev/video7", "v4l2:/dev/video7", "v4l2:///dev/video7"])
def test_a_webcam_may_be_named_as_elsewhere(text: str) -> None:
    config = NodeConfig(source=SourceConfig(uri=text))
    source = open_source(config, clock=ManualClock(), counters=NodeCounters(), wait=lambda _: True)
    assert "/dev/video7" in repr(source._address)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["Front=clip.mp4", "front/left=clip.mp4", "front left=rtsp://h/x"])
def test_a_name_that_no_stream_can_have_is_named(text: str) -> None:
    with pytest.raises(SourceError, match="a-z, 0-9"):
        play(text)


# --- crashes -------------------------------------------------------------------------------------

_KILLER = """
import os, signal, sys
from ureca.node.decoding import video_reader, video_worker
usual = video_reader.VideoReader._decoded
def deadly(self, packet):
    if packet.size and self.packets > self._order.skip and self.packets in ({packets}):
        os.kill(os.getpid(), signal.SIGSEGV)
    return usual(self, packet)
video_reader.VideoReader._decoded = deadly
sys.exit(video_worker.main())
"""


@pytest.mark.parametrize("deadly", ["7,", "1,", "7, 20, 33", "24,"])
def test_a_decoder_that_dies_costs_its_stream_some_pictures_and_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadly: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The decoder of another process is replaced by one that dies at a packet."""
    path = clip(tmp_path / "a.mp4", 48, options={"g": "6", "bf": "0"})
    usual = subprocess.Popen

    def start(command: list[str], **how: object) -> subprocess.Popen[bytes]:
        assert "ureca.node.decoding.video_worker" in command
        return usual([sys.executable, "-c", _KILLER.format(packets=deadly)], **how)  # type: ignore[call-overload]

    monkeypatch.setattr("ureca.node.decoding.video_process.subprocess.Popen", start)
    played = play(path)
    assert "signal 11" in caplog.text
    assert played.failure is None
    assert len(played.frames) + played.damaged == 48
    assert len(played.frames) >= 48 - 8 * deadly.count(",") - 8
    numbers = played.numbers
    assert [n for n in numbers if n is not None] == sorted(n for n in numbers if n is not None)
    assert max(n for n in numbers if n is not None) == 47


@pytest.mark.skipif(not FIELD.is_dir(), reason="no folder of reported inputs")
@pytest.mark.parametrize(
    ("name", "count", "damaged_count"),
    [
        ("interlaced.mp4", 6, 0),
        ("corrupt-middle.mp4", 38, 22),
        ("gap-1h.mp4", 48, 0),
        ("av1.mp4", 5, 0),
        ("macos-dotunderscore.tar", 4, 0),
        ("unpadded-names.tar", 12, 0),
    ],
)
def test_reported_inputs(name: str, count: int, damaged_count: int) -> None:
    played = play(FIELD / name)
    assert (len(played.frames), played.damaged) == (count, damaged_count)
    assert max(played.waits_s) <= 5.0
    assert len({frame.image.tobytes() for frame in played.frames}) == count
    assert number_of(numbered(77)) == 77
