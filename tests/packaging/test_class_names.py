"""A class name stands for one thing: it is not used again in another file."""

from __future__ import annotations

import ast
from collections import defaultdict

PACKAGES = ("ureca", "node", "models", "export", "tools")
SHARED: frozenset[str] = frozenset()
"""Names that stand in several files. This list may only shrink."""


def _classes(repository):
    files = defaultdict(set)
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            if any(parent.is_symlink() for parent in path.parents if parent != repository):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    files[node.name].add(str(path.relative_to(repository)))
    return files


def test_a_class_name_stands_in_one_file_only(repository):
    files = _classes(repository)
    assert len(files) > 500
    shared = {name: sorted(paths) for name, paths in files.items() if len(paths) > 1}
    assert {name: paths for name, paths in shared.items() if name not in SHARED} == {}, (
        "name the class for what it is here"
    )
    assert sorted(SHARED - shared.keys()) == [], "these are unique now: take them out of SHARED"
    assert len(SHARED) <= 1
