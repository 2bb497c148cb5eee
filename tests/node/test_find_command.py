"""Texts on the command line: `ureca run --text` and `ureca find`, with the scripted engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import pytest

from ureca.cli import find
from ureca.cli.watch import line
from ureca.errors import BundleError, ConfigError
from ureca.node.cli.run import main
from ureca.protocol.events import TextAbsent, TextFound, TextRegion
from ureca.protocol.results import FindResult, Found
from ureca.testing import ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource(frames=12)
ADDRESSES = ("publish.events", "publish.requests")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for seq in range(SOURCE.frames):
        cv2.imwrite(str(folder / f"{seq:03}.png"), SOURCE.image(seq)[..., ::-1])
    return folder


def options(clip: Path, *more: object) -> list[str]:
    given = ["--source", clip, "--no-realtime", "--quiet", *more]
    for key in ADDRESSES:
        given += ["--set", f"{key}=ipc://{clip.parent}/{key}"]
    return list(map(str, given))


def run(clip: Path, *more: object) -> int:
    return main(options(clip, *more), engine_of=lambda folder: ScriptedEngine())


def boxes(*names: str) -> list[str]:
    found = SOURCE.boxes_xyxy_px(0)
    return [word for name in names for word in ("--box", ",".join(map(str, found[name])))]


def test_texts_are_found_and_named_or_told_as_absent(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = clip.parent / "events.jsonl"
    texts = ("--text", "a red thing", "--text", "a purple mug", "--events", events)
    assert run(clip, *boxes("red", "green"), *texts) == 0
    out = capsys.readouterr().out
    assert "text        'a red thing': found as r1 (P 0.9" in out
    assert "text        'a purple mug': not found (P(none) 0.9" in out
    assert "[a red thing]" in out  # the region is named by it
    told = [json.loads(text) for text in events.read_text().splitlines()]
    kinds = [(one["ev"], one["text"]) for one in told if one["ev"].startswith("text.")]
    assert ("text.found", "a red thing") in kinds
    assert ("text.absent", "a purple mug") in kinds


def test_with_a_segmenter_the_whole_frame_is_asked(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted = ("--set", "segmenter.model=scripted")
    assert run(clip, "--text", "a blue thing", *scripted) == 0
    assert "text        'a blue thing': found as r1" in capsys.readouterr().out


def test_prompt_files_may_hold_texts(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = clip.parent / "prompts.json"
    box = list(SOURCE.boxes_xyxy_px(0)["red"])
    entries = [{"box": box, "rid": "one"}, {"text": "a red thing"}]
    entries += [{"text": "a mug", "standing": True, "level": "part"}]
    prompts.write_text(json.dumps(entries))
    assert run(clip, "--prompts", prompts) == 0
    assert "text        'a red thing': found as one" in capsys.readouterr().out
    for wrong in ({"text": "a", "box": box}, {"standing": True, "box": box}, {"text": " "}):
        prompts.write_text(json.dumps([wrong]))
        with pytest.raises(ConfigError, match="entry 0"):
            run(clip, "--prompts", prompts)


def test_a_text_that_nothing_could_answer_is_refused_with_the_remedy(clip: Path) -> None:
    with pytest.raises(ConfigError, match=r"a mug.*segmenter\.yaml.*--box"):
        run(clip, "--text", "a mug")
    with pytest.raises(ConfigError, match="has a word"):
        run(clip, "--text", " ", *boxes("red"))

    class Mute(ScriptedEngine):
        score = None  # type: ignore[assignment]

    with pytest.raises(BundleError, match="section 'grounding'"):
        main(options(clip, "--text", "a mug", *boxes("red")), engine_of=lambda folder: Mute())


@pytest.fixture
def node(clip: Path) -> Iterator[str]:
    """A node process with the scripted engine that runs until the test ends; its address. Nothing
    moves in its clip: on a slow machine a region would come to lie on another colour.
    """
    for seq in range(1, SOURCE.frames):
        shutil.copy(clip / "000.png", clip / f"{seq:03}.png")
    script = Path(__file__).resolve().parents[1] / "system" / "scripted_node.py"
    exact = ("--set", "segmenter.model=scripted")  # flow alone drifts on a machine that is slow
    given = options(clip, "--loop", *boxes("red", "green"), *exact)
    given.remove("--no-realtime")
    process = subprocess.Popen([sys.executable, script, *given])
    yield f"ipc://{clip.parent}/publish.requests"
    process.terminate()
    process.wait(30)


def test_ureca_find_asks_a_running_node(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ureca.client.client import Client

    with Client.connect(node.replace("requests", "events"), node, timeout_s=60) as client:
        for _ in client.events({"caption.final"}, timeout_s=60):
            break
    ask = ["--requests", node, "--timeout", "20"]
    assert find.main(["a red thing", *ask]) == 0
    assert capsys.readouterr().out.startswith("cam0/")
    assert find.main(["a purple mug", *ask]) == 1
    assert "is not there (P(none) 0.9" in capsys.readouterr().out
    assert find.main(["a red thing", *ask, "--json", "--masks", "--level", "thing"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out, type=FindResult)
    assert told.by == "likelihood"
    assert told.regions[0].mask is not None


def test_words_of_captions_are_told_as_such() -> None:
    one = Found(stream="cam0", rid="r1", text="a red thing", score=0.5)
    text = find.text_of("a mug", FindResult(by="caption_words", regions=(one,)))
    assert "cannot score texts" in text
    assert "0.50  a red thing" in text
    none = find.text_of("a mug", FindResult(by="caption_words", regions=()))
    assert "no caption has words of 'a mug'" in none


def test_watch_tells_of_texts() -> None:
    common = {"stream": "cam0", "text": "a mug", "none": 0.25, "seq": 1, "captured_ns": 1}
    region = TextRegion(rid="r1", box=(1, 2, 3, 4), probability=0.75)
    assert line(TextFound(**common, regions=(region,))).endswith("'a mug': r1 (0.75)")
    assert line(TextAbsent(**common)).endswith("'a mug' is not there (P(none) 0.25)")
