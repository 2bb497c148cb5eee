"""Stores paid answers as they arrive, so that a restarted run requests none twice."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from ureca.models.curation.errors import BudgetError, OutputError
from ureca.models.curation.prompts import Annotator, AnnotatorQuestion, Answer

_PATTERN = "answers-*.jsonl"


class AnswerCache:
    """Wraps an annotator and passes each question to it once.

    Each process writes a file of its own in `folder` and reads all of them when it starts. The
    last line of a killed process may be cut off: that answer is asked for again. `budget` bounds
    the questions that go out; beyond it `BudgetError` is raised.
    """

    def __init__(self, folder: Path, annotator: Annotator, *, budget: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._annotator, self._budget = annotator, budget
        self._known = {key: text for key, text, _ in _read_answers(folder)}
        self._lock = threading.Lock()
        self._path = folder / f"answers-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._file: IO[str] | None = None
        self.counts: Counter[str] = Counter(
            {"asked": 0, "known": 0, "tokens_in": 0, "tokens_out": 0}
        )

    @property
    def model(self) -> str:
        """See `Annotator`."""
        return self._annotator.model

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """Return the answer from the files, or a new one, which is on disk before it is
        returned.
        """
        key = question.make_key(self.model)
        with self._lock:
            if key in self._known:
                self.counts["known"] += 1
                return Answer(self._known[key])
            if self._budget is not None and self.counts["asked"] >= self._budget:
                raise BudgetError(f"{self._budget} questions were allowed, and all are asked")
            self.counts["asked"] += 1
        answer = self._annotator.answer(question)
        with self._lock:
            self._store(key, question, answer)
        return answer

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _store(self, key: str, question: AnnotatorQuestion, answer: Answer) -> None:
        self.counts["tokens_in"] += answer.tokens_in
        self.counts["tokens_out"] += answer.tokens_out
        self._known[key] = answer.text
        row = {
            "key": key,
            "text": answer.text,
            "kind": question.kind,
            "region_id": question.region_id,
            "model": self.model,
            "tokens": [answer.tokens_in, answer.tokens_out],
        }
        try:
            self._file = self._file or self._path.open("a", encoding="utf8")
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot keep answers in {self._path}: {error}; make room and start again, "
                "nothing that was kept is asked twice"
            ) from error


def count_spent(folder: Path) -> dict[str, int]:
    """Return the cost of all answers in `folder`, over all runs: their number, and their tokens in
    and out.
    """
    costs = [(1, *map(int, tokens)) for *_, tokens in _read_answers(folder)]
    totals = [sum(column) for column in zip(*costs, strict=True)] or [0, 0, 0]
    return dict(zip(("kept", "tokens_in", "tokens_out"), totals, strict=True))


def _read_answers(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Key, text and tokens of every answer."""
    for path in sorted(folder.glob(_PATTERN)):
        for line in path.read_text("utf8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # cut off by a kill
                row = json.loads(line)
                yield row["key"], row["text"], row["tokens"]
