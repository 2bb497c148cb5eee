"""Write docs/configuration.md from the configuration types: keys, types, defaults, meanings.

usage: python tools/config_reference.py [--check]
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from ureca.export.config import ExportConfig
from ureca.models.training.config import TrainConfig
from ureca.node.config import NodeConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_HEAD = """# Configuration

Made by `python tools/config_reference.py` from the types; a test fails when it is not up to date.

Every value has a default that works. A YAML file (`--config FILE`) overrides some of them, options
of a command override the file, and `--set a.b=value` (repeatable, of `ureca run`) overrides both.
An unknown key is an error that names the nearest one. Environment variables set nothing here;
`URECA_CACHE` and `URECA_DATA` name folders.
"""
_PARTS = (
    ("The node: `ureca run --config`", NodeConfig),
    ("Export: `ureca export --config`", ExportConfig),
    ("Training: `ureca train CONFIG`", TrainConfig),
)


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, kind in _PARTS:
        parts += [f"## {title}", "", *_tables(kind, "")]
    return "\n".join(parts).rstrip() + "\n"


def _tables(kind: type, prefix: str) -> Iterator[str]:
    """One table for the plain fields of a dataclass, then one for each section below it."""
    hints, notes = typing.get_type_hints(kind), field_notes(kind)
    fields = dataclasses.fields(kind)
    sections = [field for field in fields if dataclasses.is_dataclass(hints[field.name])]
    yield _wrapped(_first_paragraph(inspect.getdoc(kind) or ""))
    yield ""
    plain = [field for field in fields if field not in sections]
    if plain:
        yield "| Key | Type | Default | Meaning |"
        yield "|---|---|---|---|"
    for field in plain:
        cells = (_named(hints[field.name]), _default(field), notes.get(field.name, ""))
        yield "| " + " | ".join([f"`{prefix}{field.name}`", *map(_cell, cells)]) + " |"
    yield ""
    for section in sections:
        yield f"### `{prefix}{section.name}`"
        yield ""
        yield from _tables(hints[section.name], f"{prefix}{section.name}.")


def field_notes(kind: type) -> dict[str, str]:
    """The strings that stand below fields of a class; a base's fields keep theirs."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, note in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                notes[field.target.id] = _string(note)
    return notes


def _string(node: ast.stmt) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return inspect.cleandoc(value.value)
    return ""


def _named(hint: object) -> str:
    """A type as people write it."""
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    modules = ("ureca.models.config.", "ureca.node.segmenter_config.")
    for noise in ("typing.", "pathlib.", "collections.abc.", *modules):
        name = name.replace(noise, "")
    return f"`{name}`"


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "must be given"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _wrapped(text: str) -> str:
    """Prose is at most 100 columns wide in every page."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
