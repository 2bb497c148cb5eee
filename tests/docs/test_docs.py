"""What the documents promise: links that lead somewhere, commands that exist, true tables."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ureca import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/pretrained/*/*.md")]
)
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _prose(page):
    """Text without code, in which brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text("utf-8")))


def _anchors(page):
    """Headings as GitHub names them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text("utf-8")))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    broken = []
    for match in _LINK.finditer(_prose(page)):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def commands(page: Path) -> Iterator[list[str]]:
    """The `ureca …` lines of a page's shell blocks, as words; continued lines are joined."""
    for language, body in _FENCE.findall(page.read_text("utf-8")):
        if language not in {"", "bash", "sh", "console"}:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            yield from _simple_commands(line)


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        tokens = list(lexer)
    except ValueError:  # a quote that another language opened: no shell line
        return
    for token in [*tokens, ";"]:
        if token[0] in ";&|<>()":
            if "ureca" in words[:4]:
                yield words[words.index("ureca") + 1 :]
            words = []
        else:
            words.append(token)


class _Parsed(Exception):  # noqa: N818  (it says that all is well)
    pass


@pytest.fixture
def only_parse(monkeypatch):
    """Commands stop once their arguments were understood."""
    understand = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        understand(self, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def _understood(words):
    """Whether the command line accepts these words; `--help` ends in an exit of its own."""
    words = [re.sub(r"[\[\]…]|\.\.\.", "", word) for word in words]
    try:
        return cli.main([word for word in words if word]) == 0
    except _Parsed:
        return True
    except SystemExit as end:
        return not end.code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_the_documents_is_understood(page, only_parse, capsys):
    misunderstood = [words for words in commands(page) if not _understood(words)]
    assert misunderstood == [], capsys.readouterr().err


def test_commands_are_found_at_all():
    assert sum(1 for page in PAGES for _ in commands(page)) > 30


def test_a_wrong_option_would_be_noticed(only_parse, capsys):
    assert _understood(["watch", "--json"])
    assert not _understood(["watch", "--jsn"])


def test_the_configuration_page_is_what_the_types_say():
    done = subprocess.run(
        [sys.executable, "tools/config_reference.py", "--check"], cwd=ROOT, check=False
    )
    assert done.returncode == 0, "run: python tools/config_reference.py"


def test_every_command_stands_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in cli.COMMANDS if f"ureca {name}" not in text] == []
