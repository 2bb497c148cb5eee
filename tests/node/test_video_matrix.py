"""Thirty generated clips: codec x container x fault. Every picture shows its number, and so the
time at which it must come.
"""

from __future__ import annotations

import fractions
from pathlib import Path

import numpy as np
import pytest

from tests.node.video_rig import Played, encode, numbered, play

pytestmark = pytest.mark.long  # `test_video_files` has one of each kind

COUNT = 24
BASE = fractions.Fraction(1, 24)
VARYING = [n + (n // 6) * 3 for n in range(COUNT)]
"""Times in 1/24 s: a rest of three after each six."""

KINDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "h264.mp4": ("mp4", "libx264", "yuv420p", {}),
    "h264.mkv": ("mkv", "libx264", "yuv420p", {}),
    "h264.ts": ("ts", "libx264", "yuv420p", {}),
    "h264.flv": ("flv", "libx264", "yuv420p", {}),
    "h264-10.mp4": ("mp4", "libx264", "yuv420p10le", {}),
    "hevc.mp4": ("mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "vp9.webm": ("webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "crf": "20"}),
    "mpeg4.avi": ("avi", "mpeg4", "yuv420p", {"bf": "0", "qscale": "3"}),
    "mpeg2.ts": ("ts", "mpeg2video", "yuv420p", {"qscale": "3"}),
    "mjpeg.avi": ("avi", "mjpeg", "yuvj420p", {"qscale": "3"}),
}
FAULTS = ("none", "varying", "damaged")


def made(folder: Path, kind: str, fault: str) -> Path:
    suffix, codec, fmt, options = KINDS[kind]
    path = encode(
        folder / f"a.{suffix}",
        [numbered(n) for n in range(COUNT)],
        codec=codec,
        pix_fmt=fmt,
        base=BASE,
        stamps=VARYING if fault == "varying" else None,
        options={"g": "6", **options},
    )
    if fault == "damaged":
        data = bytearray(path.read_bytes())
        middle = slice(int(len(data) * 0.55), int(len(data) * 0.65))
        noise = np.random.default_rng(9).integers(0, 256, middle.stop - middle.start, np.uint8)
        data[middle] = noise.tobytes()
        path.write_bytes(data)
    return path


def late_ms(played: Played, stamps: list[int]) -> list[float]:
    """How far each picture is from the time that its number says."""
    first = played.frames[0].captured_ns
    return [
        (frame.captured_ns - first) / 1e6 - 1000 * float(stamps[number] * BASE)
        for frame, number in zip(played.frames, played.numbers, strict=True)
        if number is not None and number < COUNT
    ]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_comes_with_its_number_and_at_its_time(
    tmp_path: Path, kind: str, fault: str
) -> None:
    played = play(made(tmp_path, kind, fault))
    balance = played.counters.balance()
    assert balance.frames_in == len(played.frames) + played.damaged
    if fault == "damaged":
        good = [number for number in played.numbers if number is not None]
        assert len(good) >= 6
        assert len(played.frames) <= COUNT
        return
    assert played.numbers == list(range(COUNT))
    assert played.damaged == 0
    assert played.failure is None
    stamps = VARYING if fault == "varying" else list(range(COUNT))
    assert max(abs(late) for late in late_ms(played, stamps)) <= 2, "a container of milliseconds"
