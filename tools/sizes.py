"""Print how long files and functions are, part by part, and fail past the hard limits.

    python tools/sizes.py

Lines are counted as they stand, docstrings included; a function counts from `def` to its last line.
A folder holds at most 20 files, but in tests.
"""

from __future__ import annotations

import ast
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ureca", "models", "node", "export", "tests", "tools")
FILE_LIMIT = 500
FUNCTION_LIMIT = 80
FOLDER_LIMIT = 20


@dataclass(frozen=True)
class Measured:
    """A file or function and its length in lines."""

    where: str
    lines: int


def python_files(folder: Path) -> list[Path]:
    """The Python files below a folder; links to the packages are not followed."""
    return sorted(path for path in folder.rglob("*.py") if not _through_link(folder, path))


def _through_link(folder: Path, path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent != folder)


def functions(path: Path) -> Iterator[Measured]:
    """Every function and method of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield Measured(where, end - node.lineno + 1)


def folders(top: Path) -> list[Measured]:
    """The folders below and with `top`, and how many files each holds."""
    counts = Counter(path.parent for path in _files(top))
    return [Measured(str(f.relative_to(ROOT)), count) for f, count in sorted(counts.items())]


def _files(top: Path) -> Iterator[Path]:
    for path in top.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and not _through_link(top, path):
            yield path


def row(name: str, measured: Sequence[Measured]) -> str:
    """Count, median, 95th percentile and maximum."""
    lines = sorted(item.lines for item in measured)
    if not lines:
        return f"{name:<18}{0:>7}"
    p95 = lines[math.ceil(0.95 * len(lines)) - 1]
    return f"{name:<18}{len(lines):>7}{statistics.median(lines):>9.1f}{p95:>7}{lines[-1]:>7}"


def main() -> int:
    """Print the table; 1 when something is past a hard limit."""
    print(f"{'lines':<18}{'count':>7}{'median':>9}{'p95':>7}{'max':>7}")
    too_long: list[str] = []
    for package in PACKAGES:
        paths = python_files(ROOT / package)
        files = [
            Measured(str(p.relative_to(ROOT)), len(p.read_text("utf-8").splitlines()))
            for p in paths
        ]
        inside = [item for path in paths for item in functions(path)]
        print(row(f"{package} files", files))
        print(row(f"{package} functions", inside))
        for items, limit in ((files, FILE_LIMIT), (inside, FUNCTION_LIMIT)):
            too_long += [f"{i.where}: {i.lines} > {limit}" for i in items if i.lines > limit]
    for package in PACKAGES:
        if package != "tests":
            full = [item for item in folders(ROOT / package) if item.lines > FOLDER_LIMIT]
            too_long += [f"{i.where}/: {i.lines} files > {FOLDER_LIMIT}" for i in full]
    for item in too_long:
        print(f"too long: {item}", file=sys.stderr)
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
