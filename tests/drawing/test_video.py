"""`ureca run --render`: a video that is whole, beside a node that does not wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.datatypes import Frame, Track, TrackSet, TrackState
from ureca.errors import ConfigError
from ureca.node.annotated_video.renderer import Renderer
from ureca.node.annotated_video.video_writer import VideoWriter, pictures_in
from ureca.node.cli.run import main
from ureca.protocol.events import CaptionFinal
from ureca.testing import ScriptedEngine
from ureca.visualization.palette import COLOURS

pytest.importorskip("PIL", reason="rendering was not proven: pip install 'ureca[render]'")

ROOT = Path(__file__).resolve().parents[2]
BOX = (200, 100, 300, 200)


def frame(seq, *, stream="cam0", session_id=b"b" * 16, at_s=None, size=(240, 480)):
    image = np.full((*size, 3), 60, np.uint8)
    at_ns = round((seq / 24 if at_s is None else at_s) * 1e9)
    return Frame(stream, session_id, seq, at_ns, image)


def tracks(of, *, alive=True):
    mask = np.zeros(of.image.shape[:2], np.bool_)
    mask[100:200, 200:300] = True
    state = TrackState.ALIVE if alive else TrackState.LOST
    track = Track("mug", state, mask if alive else None, BOX, 1, 0)
    return TrackSet(of.stream, of.seq, of.captured_ns, (track,))


def said(captured_ns, ttl_ms=1000, text="a red mug", stream="cam0"):
    return CaptionFinal(
        stream=stream,
        rid="mug",
        rev=1,
        request_id=1,
        text=text,
        status="ok",
        n_tok=2,
        stop="eos",
        score=None,
        score_kind="none",
        src_seqs=(1,),
        captured_ns=captured_ns,
        box=BOX,
        trigger="new",
        model="m",
        bundle_sha="s",
        precision="p",
        ttl_ms=ttl_ms,
    )


def read(path):
    video, found = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]:
        found.append(cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
    video.release()
    return found


def render(path, items, **options):
    """Without rests, because all items come at once."""
    renderer = Renderer(path, fps=24, **{"rest": 0.0, **options})
    renderer.start()
    for item in items:
        if isinstance(item, Frame):
            renderer.saw(item, tracks(item))
        else:
            renderer(item)
    renderer.close()
    return renderer


def test_the_video_shows_masks_captions_and_their_end(tmp_path):
    path = tmp_path / "out.mp4"
    frames = [frame(n) for n in range(72)]
    renderer = render(path, [*frames[:12], said(frames[11].captured_ns), *frames[12:]])
    assert renderer.failure is None
    assert renderer.text().startswith(f"{path}: 3.0 s at 24")
    pictures = read(path)
    assert len(pictures) == 72
    middle = [picture[150, 250].astype(int) for picture in pictures]
    red = COLOURS[0]
    assert red == (255, 107, 97)
    assert all(m[0] > m[2] + 20 for m in (middle[2], middle[30])), "the mask in its colour"
    assert abs(middle[60][0] - middle[60][2]) < 15, "1 s after its caption ran out it is grey"
    words = [(picture[60:102].max(axis=2) > 200).sum() for picture in pictures]
    assert words[5] < 20, "nothing was said yet"
    assert words[30] > 50


def test_the_video_keeps_the_time_of_the_captures(tmp_path):
    path = tmp_path / "out.mp4"
    # 8 pictures a second, a camera away for 10 s, another life of it.
    times = [n / 8 for n in range(9)] + [11.0]
    items = [frame(n, at_s=at) for n, at in enumerate(times)]
    render(path, [*items, frame(0, session_id=b"c" * 16, at_s=0.0)])
    assert len(read(path)) == 1 + 8 * 3 + 48 + 1, "at most 2 s stand for a gap"


def test_every_frame_of_a_lossless_source_is_one_picture(tmp_path):
    path = tmp_path / "out.mp4"
    room = frame(0).image.nbytes * 2
    frames = [frame(n, at_s=n * 3.0) for n in range(20)]
    renderer = render(path, frames, lossless=True, max_pending_bytes=room)
    assert len(read(path)) == 20
    assert renderer.counters() == {}


def test_a_slow_pencil_costs_pictures_never_the_node(tmp_path):
    go = threading.Event()

    def slow(frame, tracks, words):
        go.wait(30)
        return frame.image

    path, room = tmp_path / "out.mp4", frame(0).image.nbytes * 4
    renderer = Renderer(path, fps=24, draw=slow, max_pending_bytes=room, rest=0.0)
    renderer.start()
    for n in range(40):  # would never return if it waited for the pencil
        one = frame(n)
        renderer.saw(one, tracks(one))
    go.set()
    renderer.close()
    lost = renderer.counters()["render_lost_frame"]
    assert 35 <= lost <= 36
    assert f"{lost} frames lost" in renderer.text()
    assert pictures_in(path) == 40, "what was lost takes its time all the same"


def test_the_pencil_rests_so_that_the_node_keeps_its_processor(tmp_path):
    drawn = []

    def heavy(frame, tracks, words):
        began_s, began = time.monotonic(), time.thread_time()
        while time.thread_time() < began + 0.02:
            pass
        drawn.append((began_s, time.monotonic()))
        return frame.image

    def lost():
        return renderer.counters().get("render_lost_frame", 0)

    renderer, shown = Renderer(tmp_path / "out.mp4", fps=24, draw=heavy), 0
    renderer.start()
    start_s = time.monotonic()
    while len(drawn) < 12:
        one = frame(shown, at_s=time.monotonic() - start_s)
        renderer.saw(one, tracks(one))
        shown += 1
        while len(drawn) + lost() < shown:  # none waits when the next one comes
            time.sleep(0.001)
        time.sleep(0.005)
    renderer.close()
    rests_s = [after[0] - before[1] for before, after in pairwise(drawn)]
    assert min(rests_s) >= 0.04, "twice as long as it draws, however slow the machine is"
    assert lost() == shown - len(drawn)


def test_each_stream_has_a_video(tmp_path):
    path = tmp_path / "out.mp4"
    both = [frame(n, stream=name) for n in range(24) for name in ("cam0", "rear")]
    render(path, both)
    assert len(read(path)) == len(read(tmp_path / "out-rear.mp4")) == 24


def test_pictures_of_another_size_are_fitted_in(tmp_path):
    path = tmp_path / "out.mp4"
    render(path, [frame(0, size=(241, 481)), frame(1, size=(300, 600))])
    assert [picture.shape for picture in read(path)] == [(240, 480, 3)] * 2


def test_a_disk_that_fills_ends_the_video_whole_and_says_so(tmp_path):
    path, free = tmp_path / "out.mp4", [20 << 20] * 30 + [1 << 20] * 100
    frames = [frame(n) for n in range(60)]
    renderer = render(path, frames, free=lambda _: free.pop(0))
    assert "only 1 MB are free on the disk; the video is whole up to 1.2 s" in renderer.failure
    assert renderer.text() == renderer.failure
    assert len(read(path)) == 30
    assert renderer.counters() == {"render_lost_frame": 30}


def test_a_disk_that_is_full_in_truth(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full disk was not tried: no small file system can be mounted here")
    try:
        draw = np.random.default_rng(0)
        path = disk / "out.mp4"
        items = [frame(n) for n in range(400)]

        def noise(*_):
            return draw.integers(0, 256, (240, 480, 3), np.uint8)

        renderer = render(path, items, draw=noise, lossless=True)
        assert "free on the disk" in renderer.failure
        whole = len(read(path))
        assert 10 < whole < 400
        assert pictures_in(path) == whole, "all that the index names can be read"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_is_told(tmp_path):
    script = (
        "import resource, numpy as np; from pathlib import Path\n"
        "from ureca.node.annotated_video.video_writer import VideoWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "video = VideoWriter(Path('out.mp4'), fps=24)\n"
        "draw = np.random.default_rng(0)\n"
        "for n in range(60): video.write(draw.integers(0, 256, (240, 480, 3), np.uint8))\n"
        "video.close()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr


def test_a_pencil_that_breaks_is_told(tmp_path):
    def broken(*_):
        raise ValueError("no ink")

    renderer = render(tmp_path / "out.mp4", [frame(0), frame(1)], draw=broken)
    assert "a picture could not be drawn: no ink" in renderer.failure


@pytest.mark.parametrize(
    ("name", "message"), [("out.avi", "writes mp4"), ("no/out.mp4", "cannot render to")]
)
def test_a_name_that_cannot_be_written_is_refused_at_once(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        VideoWriter(tmp_path / name, fps=24)


def test_without_frames_there_is_no_file(tmp_path):
    render(tmp_path / "out.mp4", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.timeout(400)  # the whole demo clip, 20 s of two cores, maybe beside much else
def test_the_command_renders_every_frame_of_a_clip(tmp_path, capsys):
    path = tmp_path / "out.mp4"
    where = [f"--set=publish.{key}=ipc://{tmp_path}/{key}" for key in ("events", "requests")]
    options = ["--no-realtime", "--quiet", "--render", str(path), *where]
    clip = ROOT / "configs" / "demo"
    if not clip.is_dir():
        pytest.skip("no demo clip in configs/demo")
    assert main(options, engine_of=lambda _: ScriptedEngine()) == 0
    assert f"render    {path}: 12.0 s at 15 pictures/s" in capsys.readouterr().out
    pictures = read(path)
    assert len(pictures) == 180
    assert (pictures[-1].max(axis=2) > 230).sum() > 300, "captions in white"


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_ctrl_c_leaves_a_whole_video(tmp_path, stop):
    path = tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "tests" / "system" / "scripted_node.py", "--loop", "--quiet"]
    command += [f"--set=publish.{key}=ipc://{tmp_path}/{key}" for key in ("events", "requests")]
    child = subprocess.Popen(
        [*map(str, command), "--render", str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (path.exists() and path.stat().st_size > 60_000):
            time.sleep(0.1)
        child.send_signal(stop)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, err
    assert f"render    {path}" in out
    assert len(read(path)) == pictures_in(path) > 10
