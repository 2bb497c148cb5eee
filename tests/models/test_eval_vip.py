"""ViP-Bench: its rule on hand-made answers, and the command against scripted servers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openai", reason="the judge's client needs the extra `curation`")

from tests.openai_server import Flaky
from tests.readers.conftest import dump, picture
from ureca.errors import ConfigError, SourceError
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.vip import cli as command
from ureca.models.evaluation.vip.answering import read_objects
from ureca.models.evaluation.vip.questions import (
    PROMPT,
    VipQuestion,
    make_vip_prompt,
    parse_score,
    read_vip_questions,
    summarise_scores,
)
from ureca.testing import ScriptedEngine

META = {
    "v1_0": {
        "image_source": "a.png",
        "image": "a_0.png",
        "question": "What is <obj>?",
        "answer": "a cup<OR>a mug",
        "capability": ["rec"],
    },
    "v1_1": {
        "image_source": "a.png",
        "image": "a_1.png",
        "question": "Is <obj1> above <obj2>?",
        "answer": "no<AND>it is below",
        "capability": ["rel", "rec"],
    },
}


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The benchmark's folder with two questions about one picture."""
    root = tmp_path / "ViP-Bench"
    dump(root / "vip-bench-meta-data.json", META)
    for split, mark in (("bbox", "within the red rectangle"), ("human", "the arrow points at")):
        rows = [
            {"question_id": n, "image": f"a_{n}.png", "text": f"What is {mark}, {n}?"}
            for n in range(2)
        ]
        lines = "".join(json.dumps(row | {"category": "x"}) + "\n" for row in rows)
        (root / split).mkdir()
        (root / split / "questions.jsonl").write_text(lines)
        for n in range(2):
            picture(root / split / "images" / f"a_{n}.png")
    picture(root / "source_image" / "a.png")
    shapes = [
        {"label": "obj", "points": [[30, 20], [5, 10]], "shape_type": "rectangle"},
        {"label": "obj1", "points": [[0, 0], [10, 0], [10, 10], [0, 10]], "shape_type": "polygon"},
        {"label": "obj2", "points": [[40, 30], [90, 90]], "shape_type": "rectangle"},
        {"label": "obj3", "points": [[4, 4]], "shape_type": "point"},
    ]
    size = {"imagePath": "a.png", "imageWidth": 60, "imageHeight": 40}
    dump(root / "source_image" / "a.json", {"shapes": shapes, **size})
    return root


def judge(prompt: str, _key: str) -> str:
    """Looks for words; does not say a number at first when the answer is "unsure"."""
    said = prompt.partition("\nAnswer: ")[2].partition("\n\n")[0]
    if "unsure" in said:
        return "0.2" if "with the number only" in prompt else "I cannot tell"
    if "broken" in said:
        return "no number"
    return "1.0" if "cup" in said else "0.5"


@pytest.fixture
def serve():
    made: list[Flaky] = []

    def start(reply):
        made.append(Flaky(reply=reply))
        return made[-1]

    yield start
    for server in made:
        server.die()


def words(bench, server, out, *more):
    judged = ["--judge", server.url, "--judge-model", "scripted-judge", "--bench", str(bench)]
    return ["vip", *judged, "-o", str(out), "--retries", "2", "--json", *map(str, more)]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("0.3", 0.3),
        (" 1 ", 1.0),
        ("1.0.", 1.0),
        ("Correctness: .7", 0.7),
        ("0.5 or 0.50", 0.5),
        ("0.2 or 0.4", None),
        ("1.5", None),
        ("10", None),
        ("", None),
        ("none", None),
    ],
)
def test_scores_are_read(answer, score):
    assert parse_score(answer) == score


def test_the_rule():
    def question(key, *names):
        return VipQuestion(key, "", "", "", names, "", "")

    asked = [question("a", "rec"), question("b", "ocr", "rec"), question("c", "math")]
    found = summarise_scores(asked, {"a": [1.0, 0.0], "b": [0.4, 0.4]})
    # Runs: .7 and .2 of two questions; c was not judged.
    assert (found["total"], found["total_std"], found["n"]) == (45.0, 25.0, 2)
    assert found["capabilities"] == {
        "ocr": {"score": 40.0, "n": 1},
        "rec": {"score": 45.0, "n": 2},
    }
    assert set(found["integrations"]) == {"rec", "ocr_rec"}
    assert summarise_scores(asked, {})["total"] is None


def test_questions_are_those_of_the_split(bench):
    boxes, drawn = (read_vip_questions(bench, split) for split in ("bbox", "human"))
    assert boxes[0].text == "What is within the red rectangle, 0?"
    assert drawn[0].text == "What is the arrow points at, 0?"
    assert boxes[0].truth == "a cup <OR> a mug"
    assert boxes[1].capabilities == ("rec", "rel")
    prompt = make_vip_prompt(PROMPT, boxes[0], "it is {truth}")
    assert "Answer: it is {truth}" in prompt
    with pytest.raises(ConfigError, match=r"\{answer\}"):
        make_vip_prompt("{question} {truth}", boxes[0], "")
    (bench / "bbox" / "questions.jsonl").write_text('{"question_id": 0, "text": "?"}\n')
    with pytest.raises(SourceError, match="no text for 1 of 2"):
        read_vip_questions(bench, "bbox")


def test_outlines_of_a_question_are_masks(bench):
    first, second = read_vip_questions(bench, "bbox")
    (mask,) = read_objects(bench, first, (40, 60)).values()
    expected = np.zeros((40, 60), bool)
    expected[10:21, 5:31] = True
    assert np.array_equal(mask, expected)
    masks = read_objects(bench, second, (40, 60))
    assert list(masks) == ["obj1", "obj2"]
    assert masks["obj2"][30:, 40:].all()

    def about(text, source="a.png"):
        return VipQuestion("k", "", text, "", (), "", source)

    for text, message in (
        ("What is it?", "names no <obj>"),
        ("<obj9>?", "no outline of obj9"),
        ("<obj3>?", "expected a rectangle or a polygon"),
    ):
        with pytest.raises(SourceError, match=message):
            read_objects(bench, about(text), (40, 60))
    with pytest.raises(SourceError, match="outside of the picture"):
        read_objects(bench, about("<obj2>?"), (20, 20))
    with pytest.raises(SourceError):
        read_objects(bench, about("<obj>?", "b.png"), (40, 60))


def test_answers_of_another_model_are_judged_in_runs(bench, tmp_path, serve, capsys):
    answers = dump(tmp_path / "answers.json", {"v1_0": "A cup.", "v1_1": "unsure", "v1_9": "?"})
    server = serve(judge)
    line = words(bench, server, tmp_path / "out", "--answers", answers, "--runs", 2)
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["n"], found["runs"], found["unread"]) == (60.0, 2, 2, 0)
    assert found["capabilities"] == {"rec": {"score": 60.0, "n": 2}, "rel": {"score": 20.0, "n": 1}}
    assert found["asked"] == 6  # two runs each, and two that had to be asked again
    assert found["judge"].startswith("scripted-judge ")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
    lines = (tmp_path / "out" / "judged.jsonl").read_text().splitlines()
    assert [json.loads(row)["scores"] for row in lines] == [[1.0, 1.0], [0.2, 0.2]]
    before = server.requests.total()
    assert main(line) == 0  # again: everything is known
    assert server.requests.total() == before
    capsys.readouterr()
    dump(tmp_path / "answers.json", {"v1_0": "broken"})
    assert main(line) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["unread"], found["without_answer"]) == (0.0, 2, 1)


def test_a_server_answers_with_the_marked_picture_before_it(bench, tmp_path, serve, capsys):
    judging, seeing = serve(judge), serve(lambda prompt, _: f"cup {prompt}")
    who = ["--url", seeing.url, "--model", "seer", "--split", "human"]
    assert main(words(bench, judging, tmp_path / "out", *who)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["split"], found["model"]) == (100.0, "human", "seer")
    asked = [body["messages"][0]["content"] for body in seeing.bodies]
    assert sorted(content[-1]["text"] for content in asked) == [
        "What is the arrow points at, 0?",
        "What is the arrow points at, 1?",
    ]
    assert all(len(content) == 2 for content in asked)  # the picture and the question


def test_a_captioner_says_what_the_regions_are(bench, tmp_path, serve, capsys, monkeypatch):
    monkeypatch.setattr(command, "open_engine", lambda _: ScriptedEngine())
    server = serve(judge)
    assert main(words(bench, server, tmp_path / "out", "bundle")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers_are"] == "captions of the regions"
    said = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert said["v1_0"]
    assert said["v1_1"].startswith("Object 1: ")
    assert "Object 2: " in said["v1_1"]
    (bench / "source_image" / "a.json").unlink()
    assert main(words(bench, server, tmp_path / "out2", "bundle")) == 1
    assert json.loads(capsys.readouterr().out)["without_answer"] == 2


def test_refusals(bench, tmp_path, serve):
    server = serve(judge)
    with pytest.raises(ConfigError, match="give one of"):
        main(words(bench, server, tmp_path / "out"))
    stranger = dump(tmp_path / "x.json", {"9": "a cat"})
    with pytest.raises(ConfigError, match="no answer to any question"):
        main(words(bench, server, tmp_path / "out", "--answers", stranger))
    assert not server.requests
