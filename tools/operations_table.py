"""Write the table of operations in docs/protocol.md from `ureca.protocol.operations`.

usage: python tools/operations_table.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from msgspec.structs import fields

from ureca.protocol.operations import OPERATIONS, Operation

PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"
_HEAD = """| `op` | Least role | `args` | `result` | Meaning |
|---|---|---|---|---|
"""
_BEGIN = "<!-- operations: made by `python tools/operations_table.py` -->\n"
_END = "<!-- end of operations -->\n"
_PLACE = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)


def table() -> str:
    """The table, one row for each operation."""
    return _HEAD + "".join(_row(name, operation) for name, operation in OPERATIONS.items())


def _row(name: str, operation: Operation) -> str:
    args = [f"`{key}`" if needed else f"`{key}?`" for key, needed in operation.arg_names.items()]
    results = [f"`{field.encode_name}`" for field in fields(operation.result)]
    cells = [f"`{name}`", operation.role, " ".join(args), " ".join(results), operation.about]
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |\n"


def page() -> str:
    """The whole page with the table as it should be."""
    return _PLACE.sub(lambda _: _BEGIN + table() + _END, PAGE.read_text("utf-8"))


def main() -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(table() not in text or PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
