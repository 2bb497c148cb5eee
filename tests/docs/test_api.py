"""The API reference can be built, and its links lead somewhere."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc", reason="the API reference needs the extra `dev`")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("api")
    modules = sorted(f"ureca.{path.stem}" for path in (ROOT / "ureca").glob("[a-z]*.py"))
    modules += ["ureca.client", "ureca.protocol", "ureca.security"]
    done = subprocess.run(
        [sys.executable, "-m", "pdoc", "ureca", *modules, "-o", out, "--docformat", "google"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr, done.stderr
    return out


def test_every_public_name_is_in_the_reference(built):
    import ureca

    text = (built / "ureca.html").read_text("utf-8")
    assert [name for name in ureca.__all__ if f'id="{name}"' not in text] == []


def test_no_link_of_the_reference_is_broken(built):
    pages = {path.relative_to(built): path.read_text("utf-8") for path in built.rglob("*.html")}
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken = []
    for page, text in pages.items():
        for link in set(re.findall(r'href="([^"]+)"', text)):
            if "${" in link or re.match(r"[a-z]+:", link):  # the search box fills in its own
                continue
            path, _, anchor = html.unescape(link).partition("#")
            target = (built / page.parent / path).resolve().relative_to(built.resolve())
            target = target if path else page
            if target not in pages or (anchor and anchor not in ids[target]):
                broken.append(f"{page}: {link}")
    assert broken == []
