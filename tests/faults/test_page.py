"""`docs/faults.md` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_of_the_page_exists(repository: Path) -> None:
    page = (repository / "docs" / "faults.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    text = "".join(path.read_text() for path in (repository / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert not named - set(re.findall(r"def (test_\w+)\(", text))
    files = re.findall(r"`(tests/\S+\.py)`", page)
    assert all((repository / file).is_file() for file in files), files
