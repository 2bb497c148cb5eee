"""DLC-Bench: its rule on hand-made answers, and the command against a scripted server."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

pytest.importorskip("openai", reason="the judge's client needs the extra `curation`")

from tests.readers.conftest import dump, picture
from tests.readers.test_coco import SQUARE, image, region
from ureca.errors import ConfigError, SourceError
from ureca.models.data.cli import main as data_main
from ureca.models.evaluation.cli import main
from ureca.models.evaluation.dlc import cli as command
from ureca.models.evaluation.dlc.questions import (
    PROMPT,
    DlcQuestion,
    compute_means,
    find_choice,
    make_prompt,
    make_recognition_question,
    read_questions,
    score_region,
)
from ureca.testing import ScriptedEngine

COLOUR = [
    ("The lid is not mentioned.", 0),
    ("The lid is mentioned, its colour is not.", 0.5),
    ("The colour of the lid is mentioned and is not red.", -1),
    ("The colour of the lid is mentioned and is red.", 1),
]
SPOON = [("The spoon is not mentioned.", 1), ("The spoon is mentioned.", -1)]
QA = {
    "101": [
        {"question": "Which applies?", "choices": COLOUR, "type": "positive"},
        {"question": "Which applies?", "choices": SPOON, "type": "negative", "subtype": "salient"},
    ],
    "102": [{"question": "Which applies?", "choices": COLOUR, "type": "positive"}],
}
NAMES = {"101": "pot", "102": "cups", "103": "unused"}


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


@pytest.fixture
def bench(tmp_path):
    dump(tmp_path / "DLC-bench" / "qa.json", QA)
    dump(tmp_path / "DLC-bench" / "class_names.json", NAMES)
    return tmp_path / "DLC-bench"


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", 1),
        ("b.", 1),
        (" B. The spoon is mentioned. ", 1),
        ("The spoon is mentioned.", 1),
        ("I would say: the spoon is mentioned.", 1),
        ("A) since nothing is said of it", 0),
        ("B. Neither text", 1),
        ("the spoon is not mentioned. No: The spoon is mentioned.", 1),
        ("spoon is not", 0),
        ("C", None),
        ("", None),
        ("Because", None),
    ],
)
def test_answers_are_understood(answer, choice):
    assert find_choice(answer, [text for text, _ in SPOON]) == choice


@given(st.text(max_size=30))
def test_any_answer_is_one_of_the_choices_or_none(answer):
    assert find_choice(answer, [text for text, _ in COLOUR]) in {None, 0, 1, 2, 3}


def asked(*rows):
    return (make_recognition_question("pot"), *(DlcQuestion(q, tuple(c), t) for q, c, t in rows))


def test_the_rule():
    questions = asked(
        ("?", COLOUR, "positive"), ("?", COLOUR, "positive"), ("?", SPOON, "negative")
    )
    good = score_region(questions, ["A. Yes", "D", "B", "A"])
    assert (good.positive, good.negative, good.recognised, good.unread) == (0.75, 1.0, True, 0)
    # The wrong kind of thing: nothing counts above 0, and what is below stays.
    wrong = score_region(questions, ["No", "D", "C", "A"])
    assert (wrong.positive, wrong.negative, wrong.recognised) == (-0.5, 0.0, False)
    unread = score_region(questions, ["Yes", "D", "???", "A"])
    assert (unread.positive, unread.unread) == (0.5, 1)
    alone = score_region(asked(("?", COLOUR, "positive")), ["Yes", "D"])
    assert (alone.positive, alone.negative) == (1.0, None)
    found = compute_means({"a": good, "b": wrong, "c": alone})
    assert found["positive"] == pytest.approx((0.75 - 0.5 + 1) / 3)
    assert found["negative"] == pytest.approx((1 + 0) / 2)  # c has no negative question
    assert found["average"] == pytest.approx((found["positive"] + found["negative"]) / 2)
    assert (found["regions"], found["recognised"]) == (3, 2)


def test_the_prompt_keeps_caption_and_question_apart():
    text = make_prompt(PROMPT, "a pot {question}", make_recognition_question("pot"))
    assert text.count("A. Yes\nB. No") == 1
    assert "a pot {question}" in text
    with pytest.raises(ConfigError, match=r"\{caption\}"):
        make_prompt("only {question}", "", make_recognition_question("pot"))


def test_questions_are_read_with_the_kind_first(bench):
    found = read_questions(bench / "qa.json", bench / "class_names.json")
    assert [q.type for q in found["101"]] == ["recognition", "positive", "negative"]
    assert '"pot"' in found["101"][0].question
    dump(bench / "class_names.json", {"101": "pot"})
    with pytest.raises(SourceError, match=r"no name for the regions.*102"):
        read_questions(bench / "qa.json", bench / "class_names.json")
    dump(bench / "qa.json", {"101": [{"question": "?", "choices": [["a", 1]], "type": "positive"}]})
    with pytest.raises(SourceError, match="2 to 26 choices"):
        read_questions(bench / "qa.json", bench / "class_names.json")
    dump(bench / "qa.json", {"101": [{"question": "?", "choices": COLOUR, "type": "other"}]})
    with pytest.raises(SourceError, match="not of this format"):
        read_questions(bench / "qa.json", bench / "class_names.json")


class Judge(ThreadingHTTPServer):
    """Reads the description and answers by its words; `health_issues` come first."""

    daemon_threads = True

    def __init__(self, troubles=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.troubles, self.lock = list(troubles), threading.Lock()
        self.asked = Counter()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body["messages"]
        (part,) = message["content"]  # text and no picture
        assert (body["model"], body["temperature"]) == ("scripted-judge", 0.0)
        with self.server.lock:
            self.server.asked[part["text"]] += 1
            trouble = self.server.troubles.pop(0) if self.server.troubles else None
        if trouble:
            self._send(trouble, {"error": {"message": "scripted"}})
            return
        choice = {"message": {"role": "assistant", "content": answer(part["text"])}}
        usage = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
        self._send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", **choice}],
                "usage": usage,
            },
        )

    def _send(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def answer(prompt):
    """A judge that looks for words."""
    said, _, question = prompt.partition("Description:\n")[2].lower().partition("\n\n")
    if "a. yes" in question:
        return "A. Yes" if "pot" in said or "cups" in said else "B. No"
    if "spoon" in question:
        return "B" if "spoon" in said else "A. The spoon is not mentioned."
    return "D" if "red lid" in said else "A"


def words(bench, judge, out, *more):
    judged = ["--judge", judge.url, "--judge-model", "scripted-judge", "--bench", str(bench)]
    return ["dlc", *judged, "-o", str(out), "--retries", "3", "--json", *map(str, more)]


def test_captions_of_another_model_are_judged(bench, tmp_path, capsys):
    captions = dump(
        tmp_path / "outputs.json",
        {"101": "A pot with a red lid and a spoon.", "102": "A table.", "query": "Describe it."},
    )
    with Judge([500, 429]) as judge:
        command = words(bench, judge, tmp_path / "out", "--captions", captions)
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        # 101: recognised, +1 and -1. 102: not recognised, 0.
        assert (found["positive"], found["negative"], found["average"]) == (0.5, -1.0, -0.25)
        assert (found["regions"], found["questions"], found["recognised"]) == (2, 3, 1)
        assert found["judge"].startswith("scripted-judge ")
        assert (found["prompt"], found["judge_sees_picture"]) == ("ours", False)
        assert (found["asked"], found["tokens"]) == (5, [250, 10])
        assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
        text = (tmp_path / "out" / "judged.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["region"] for row in rows] == ["101", "102"]
        assert rows[0]["answers"][1] == {
            "question": "Which applies?",
            "type": "positive",
            "answer": "D",
        }
        before = judge.asked.total()
        assert main(command) == 0  # again: every answer is known
        assert judge.asked.total() == before
        assert json.loads(capsys.readouterr().out)["average"] == -0.25
        other = tmp_path / "prompt.txt"
        other.write_text("Rate.\nDescription:\n{caption}\n\n{question}")
        assert main([*command, "--prompt", str(other)]) == 0
        changed = json.loads(capsys.readouterr().out)
        assert (changed["prompt"], changed["asked"]) == ("prompt.txt", 5)
        assert changed["prompt_sha256"] != found["prompt_sha256"]


def test_what_could_not_be_judged_is_named_and_done_later(bench, tmp_path, capsys):
    captions = dump(tmp_path / "outputs.json", {"101": "A pot.", "102": "Cups with a red lid."})
    with Judge() as judge:
        command = words(bench, judge, tmp_path / "out", "--captions", captions, "--threads", 1)
        assert main([*command, "--max-questions", "4"]) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["not_judged"] == 1
        assert "102: not judged: 4 questions" in said.err
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["asked"], found["not_judged"], found["positive"]) == (1, 0, 0.5)
        captions.write_text(json.dumps({"101": "A pot."}))
        assert main(command) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["without_caption"] == 1
        assert "102: no caption" in said.err


def test_a_model_describes_the_imported_benchmark(bench, tmp_path, capsys, monkeypatch):
    names = ["objects365_v2_1.jpg", "objects365_v2_2.jpg"]
    for name in names:
        picture(bench / "images" / name)
    content = {
        "images": [image(i, name) for i, name in enumerate(names)],
        "annotations": [region(101, 0, [SQUARE]), region(102, 1, [SQUARE])],
        "categories": [{"id": 18, "name": "pot"}, {"id": 19, "name": "cups"}],
    }
    file = dump(bench / "annotations.json", content)
    data = tmp_path / "dlc"
    importing = ["import", "coco", str(file), "--pictures", str(bench / "images")]
    assert data_main([*importing, "--name", "dlc", "--split", "test", "-o", str(data)]) == 0

    class Potter(ScriptedEngine):
        def encode(self, image):
            assert np.asarray(image).shape == (40, 60, 3)
            return super().encode(image)

    monkeypatch.setattr(command, "open_engine", lambda _: Potter())
    with Judge() as judge:
        assert main(words(bench, judge, tmp_path / "out", "bundle", "--data", data)) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["regions"], found["without_caption"]) == (2, 0)
    assert found["words"] > 0
    assert found["model"] == "bundle"


def test_refusals(bench, tmp_path):
    with Judge() as judge:
        start = words(bench, judge, tmp_path / "out")
        with pytest.raises(ConfigError, match="give one of"):
            main(start)
        with pytest.raises(ConfigError, match="--data is needed"):
            main([*start, "bundle"])
        stranger = dump(tmp_path / "x.json", {"9": "a cat"})
        with pytest.raises(SourceError, match="no caption is of a region"):
            main([*start, "--captions", str(stranger)])
        with pytest.raises(ConfigError, match="cannot read the prompt"):
            main([*start, "--captions", str(stranger), "--prompt", str(tmp_path / "none")])
        assert not judge.asked
