"""What docstrings and comments name exists: files of this repository, modules and their members."""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("node", "models", "export")
FOLDERS = ("ureca", *PACKAGES, "tests", "tools", "docs", "configs", "packaging")
_FILE = re.compile(r"[\w./-]*\w\.(?:py|md|yaml)\b(?!\.)")
_MODULE = re.compile(r"(?<![\w.])(?:ureca|node|models|export)(?:\.[A-Za-z_]\w*)+\b(?!/)")
ELSEWHERE = {
    "../shared/data/README.md": "data that is not in the repository",
    "Privacy.md": "a page of ONNX Runtime",
    "node.key": "an example's file",
    "compare.md": "a file that `ureca eval --compare` writes",
}
"""References that lead out of the repository, each with what it is."""


@cache
def _files() -> frozenset[str]:
    """Every file of the project, with `/` before its path; symbolic links are left out."""
    found = {f"/{path.name}" for path in ROOT.iterdir() if path.is_file()}
    for top in FOLDERS:
        for folder, _, names in os.walk(ROOT / top):
            inside = Path(folder).relative_to(ROOT)
            found.update(f"/{inside / name}" for name in names)
    return frozenset(found)


def _prose(source: str) -> Iterator[str]:
    """Comments and the strings that are statements: docstrings of everything."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _is_file(name: str) -> bool:
    name = re.sub(r"^ureca/(?=node/|models/|export/)", "", name)
    return any(path.endswith(f"/{name}") for path in _files())


def _is_member(dotted: str) -> bool:
    parts = dotted.split(".")
    if parts[0] == "ureca" and len(parts) > 1 and parts[1] in PACKAGES:
        parts = parts[1:]
    for end in range(len(parts), 0, -1):
        stem = "/" + "/".join(parts[:end])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in _files():
                text = (ROOT / path[1:]).read_text("utf-8")
                return all(re.search(rf"\b{name}\b", text) for name in parts[end:])
    return False


def dangling(source: str) -> list[str]:
    """Names of files and modules in the prose of Python source that do not exist."""
    found = []
    for text in _prose(source):
        found += [name for name in _FILE.findall(text) if not _is_file(name)]
        modules = _MODULE.findall(_FILE.sub("", text))
        found += [name for name in modules if not _is_member(name)]
    return [name for name in found if name not in ELSEWHERE]


def test_files_and_modules_that_docstrings_and_comments_name_exist():
    sources = [path for path in sorted(_files()) if path.endswith(".py")]
    assert len(sources) > 600
    found = {path: dangling((ROOT / path[1:]).read_text("utf-8")) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_dangling_reference_is_noticed():
    text = '"""`docs/nowhere.md`, `node/node.py`, `models.gone`, `models.config`."""  # gone.py'
    assert dangling(text) == ["gone.py", "docs/nowhere.md", "models.gone"]
