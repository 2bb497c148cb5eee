"""Prose in the documents is at most 100 columns wide, so that diffs and terminals show it whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_WIDTH = 100
_FENCE = re.compile(r"^\s*```.*?^\s*```", re.MULTILINE | re.DOTALL)
_ONE_WORD = re.compile(r"`[^`]*`|\]\([^)]*\)")
_MARKER = re.compile(r"\s*(?:(?:[-*+>]|\d+\.)\s+)?")


def too_wide(text: str) -> list[str]:
    """The wide lines that could be wrapped: a link or a code span alone on a line cannot."""
    wide = []
    for line in _FENCE.sub("", text).splitlines():
        words = _ONE_WORD.sub("x", _MARKER.sub("", line, count=1)).split()
        if len(line) > _WIDTH and len(words) > 1 and not re.match(r"\s*(\||#|<|!\[)", line):
            wide.append(line)
    return wide


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_at_most_100_columns_wide(page):
    assert too_wide(page.read_text("utf-8")) == []


def test_tables_code_and_lone_links_may_be_wider():
    wide = "word " * 30
    assert too_wide(f"{wide}\n- {wide}") == [wide, f"- {wide}"]
    assert too_wide(f"| {wide}|\n# {wide}\n```\n{wide}\n```\n") == []
    assert too_wide(f"- [link]({'x' * 120})\n`{wide}`\n") == []
