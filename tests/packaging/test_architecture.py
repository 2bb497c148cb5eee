"""ARCHITECTURE.md lists every folder and file of `node/`, with one line on each."""

from __future__ import annotations

import re

_LINE = re.compile(r"( *)(\S+?)(/?) {2,}(\S.*)")


def _listed(repository):
    """Paths of the tree in ARCHITECTURE.md, each with its line of text, in the page's order."""
    page = (repository / "ARCHITECTURE.md").read_text("utf-8")
    tree = page.partition("\n```\nnode/\n")[2].partition("\n```\n")[0]
    found, folder = [], ""
    for line in tree.splitlines():
        indent, name, is_folder, about = _LINE.fullmatch(line).groups()
        folder = "" if len(indent) == 2 else folder
        found.append((f"{folder}{name}", about))
        folder = f"{name}/" if is_folder and not folder else folder
    return found


def _present(repository):
    node = repository / "node"
    paths = [*node.glob("*"), *node.glob("*/*")]
    return {
        str(path.relative_to(node))
        for path in paths
        if path.suffix == ".py"
        or (path.is_dir() and any(each.is_file() for each in path.iterdir()))
        if path.name not in {"__init__.py", "__pycache__"}
    }


def test_the_tree_of_the_node_is_complete_and_true(repository):
    listed = [path for path, _ in _listed(repository)]
    assert len(listed) > 100
    present = _present(repository)
    assert sorted(set(listed) - present) == [], "ARCHITECTURE.md lists what is not there"
    assert sorted(present - set(listed)) == [], "add a line for these to ARCHITECTURE.md"
    assert listed == sorted(listed, key=lambda path: path.split("/")), "keep it in order"


def test_no_two_lines_of_the_tree_are_equal(repository):
    lines = [about for _, about in _listed(repository)]
    assert len(lines) == len(set(lines))
