"""`ureca run --auto` on drawn clips with the scripted segmenter, through the command line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.datatypes import Image
from ureca.errors import ConfigError
from ureca.node.cli.run import main
from ureca.node.recording.reader import pictures, read
from ureca.node.recording.replay import replay
from ureca.node.recording.replay_diff import differences
from ureca.testing import ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource(frames=24, things=3, seed=4)
HALVES = (
    "{name: left, polygon_xy: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], mode: include}",
    "{name: left, polygon_xy: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], mode: exclude}",
)


def write(folder: Path, draw: Callable[[int], Image], frames: int = 24) -> Path:
    clip = folder / "clip"
    clip.mkdir()
    for seq in range(frames):
        cv2.imwrite(str(clip / f"{seq:03}.png"), draw(seq)[..., ::-1])
    return clip


def draw(*boxes: tuple[int, int, int, int, str]) -> Image:
    """Rectangles x0, y0, x1, y1 in colours on a grey ground."""
    colours = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 200)}
    image = np.full((120, 160, 3), 90, np.uint8)
    for x0, y0, x1, y1, colour in boxes:
        image[y0:y1, x0:x1] = colours[colour]
    return image


LEFT, RIGHT = (10, 20, 50, 60, "red"), (110, 60, 140, 90, "blue")


class Run:
    """One run of the command; `--auto` with the scripted segmenter unless told otherwise."""

    def __init__(self, clip: Path, capsys: pytest.CaptureFixture[str], *more: object) -> None:
        self.folder = clip.parent
        events = self.folder / "events.jsonl"
        given: list[object] = ["--source", clip, "--no-realtime", "--quiet", "--events", events]
        for key in ("publish.events", "publish.requests"):
            given += ["--set", f"{key}=ipc://{self.folder}/{key}"]
        given += ["--auto", "--set", "segmenter.model=scripted", *more]
        self.code = main(list(map(str, given)), engine_of=lambda folder: ScriptedEngine())
        self.out = capsys.readouterr().out
        self.events = [json.loads(text) for text in events.read_text().splitlines()]

    def of(self, kind: str) -> list[dict]:  # type: ignore[type-arg]
        return [event for event in self.events if event["ev"] == kind]

    @property
    def labels(self) -> Counter[str]:
        return Counter(event["label"] for event in self.of("track.new"))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    return lambda draw, *more, frames=24: Run(write(tmp_path, draw, frames), capsys, *more)


def set_all(**settings: object) -> list[str]:
    pairs = [f"segmenter.{key}={value}" for key, value in settings.items()]
    return [word for pair in pairs for word in ("--set", pair)]


def test_everything_in_view_is_followed_and_captioned_by_itself(run: Callable[..., Run]) -> None:
    done = run(SOURCE.image)
    assert done.code == 0
    assert set(done.labels) == {"red", "green", "blue"}
    assert {e["rid"] for e in done.of("caption.final")} >= {"r1", "r2", "r3"}
    assert "found       3 things by itself" in done.out
    assert "every frame and caption is accounted for" in done.out
    assert "(no caption)" not in done.out


def test_one_picture_is_enough(run: Callable[..., Run]) -> None:
    done = run(lambda seq: draw(LEFT, RIGHT), frames=1)
    assert set(done.labels) == {"red", "blue"}
    assert len(done.of("caption.final")) == 2


def test_every_stream_has_its_turn(
    run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write(tmp_path_factory.mktemp("other"), lambda seq: draw(RIGHT), 1)
    done = run(lambda seq: draw(LEFT), "--source", f"other={other}", frames=1)
    found = {(event["stream"], event["label"]) for event in done.of("track.new")}
    assert found == {("cam0", "red"), ("other", "blue")}


def test_new_things_begin_as_they_come_and_what_is_gone_is_lost(run: Callable[..., Run]) -> None:
    def picture(seq: int) -> Image:
        return draw(LEFT, RIGHT) if seq >= 30 else draw(LEFT)

    done = run(lambda seq: picture(seq) if seq < 60 else draw(RIGHT), frames=90)
    assert done.labels == {"red": 1, "blue": 1}
    began = {event["label"]: event["seq"] for event in done.of("track.new")}
    assert began["blue"] >= 30 > began["red"]
    assert {event["label"] for event in done.of("track.lost")} == {"red"}


def test_the_largest_begin_first_and_the_summary_says_what_had_no_room(
    run: Callable[..., Run],
) -> None:
    middle = (80, 5, 90, 15, "green")
    done = run(lambda seq: draw(middle, RIGHT, LEFT), *set_all(max_regions=1))
    assert set(done.labels) == {"red"}
    assert "left out    at most at once: 2 for want of room (segmenter.max_regions 1" in done.out


def test_size_decides_and_is_said(run: Callable[..., Run]) -> None:
    small = (100, 20, 110, 28, "green")
    done = run(lambda seq: draw(LEFT, small), *set_all(min_share=0.01))
    assert set(done.labels) == {"red"}
    assert "1 smaller than segmenter.min_share (1.00% of the picture)" in done.out
    assert "1 larger than segmenter.max_share (60.00% of the picture)" in done.out  # the ground


@pytest.mark.parametrize(("zone", "kept"), [(HALVES[0], "red"), (HALVES[1], "blue")])
def test_zones_decide(run: Callable[..., Run], zone: str, kept: str) -> None:
    done = run(lambda seq: draw(LEFT, RIGHT), *set_all(zones=f"[{zone}]"))
    assert set(done.labels) == {kept}
    assert "1 by their place (segmenter.zones: " in done.out
    assert "left)" in done.out


def test_zones_do_not_bind_who_asks(run: Callable[..., Run]) -> None:
    done = run(lambda seq: draw(LEFT, RIGHT), "--point", "125,75", *set_all(zones=f"[{HALVES[0]}]"))
    boxes = {tuple(event["box"]) for event in done.of("track.new")}
    assert len(done.of("track.new")) == 2
    assert any(box[0] >= 105 for box in boxes)


def test_classes_decide_where_the_segmenter_has_some(run: Callable[..., Run]) -> None:
    done = run(lambda seq: draw(LEFT, RIGHT), *set_all(exclude_classes="[red]"))
    assert set(done.labels) == {"blue"}
    assert "1 of other classes" in done.out


def test_an_unknown_class_is_an_error_that_names_the_nearest(run: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match=r"include_classes: expected classes of scripted.*red"):
        run(lambda seq: draw(LEFT), *set_all(include_classes="[redd]"))


def test_an_empty_scene_is_no_failure_and_a_line(run: Callable[..., Run]) -> None:
    done = run(lambda seq: draw())
    assert done.code == 0
    assert done.of("track.new") == []
    assert "found       nothing" in done.out
    assert "none were given" not in done.out
    assert "every frame and caption is accounted for" in done.out


def test_a_recorded_run_replays_bit_for_bit_without_the_segmenter(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    path = tmp_path / "run.mcap"
    done = run(SOURCE.image, "--record", path)
    assert len(done.labels) == 3
    recording = read(path)
    first, second = (replay(recording, ScriptedEngine(), pictures(path)) for _ in range(2))
    assert differences(recording, first) == []
    assert first.digest == second.digest
    for step in recording.steps:
        step.finished_keyframes = []
    assert differences(recording, replay(recording, ScriptedEngine(), pictures(path)))


@pytest.mark.parametrize("model", ["none", "auto"])
def test_without_masks_auto_says_what_is_missing(run: Callable[..., Run], model: str) -> None:
    with pytest.raises(ConfigError, match=r"mask head.*ureca weights get sam2-hiera-tiny"):
        run(lambda seq: draw(LEFT), *set_all(model=model))
