"""`ureca completion`: a script that completes commands, options and choices in bash, zsh and fish.

The script knows nothing itself: at every Tab it asks `ureca completion words`, which reads what
`ureca COMMAND --help` prints. So nothing in it can go stale, and names of commands load no room.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

_EPILOG = """examples:
  source <(ureca completion bash)                                       this shell; or in ~/.bashrc
  source <(ureca completion zsh)                                        after compinit, in ~/.zshrc
  ureca completion fish > ~/.config/fish/completions/ureca.fish"""

_BASH = """_ureca() {
    local typed=("${COMP_WORDS[@]:1:COMP_CWORD}")
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" completion words "${typed[@]}" 2>/dev/null)
}
complete -o default -F _ureca ureca
"""

_ZSH = """#compdef ureca
_ureca() {
    local -a found
    found=(${(f)"$("${words[1]}" completion words "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -- $found; else _files; fi
}
if [[ $funcstack[1] == _ureca ]]; then _ureca "$@"; else compdef _ureca ureca; fi
"""

# The condition asks and keeps the answer; where it is empty, fish goes on to file names.
_FISH = """function __ureca_ask
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set -g __ureca_found ($typed[1] completion words $typed[2..-1] "$current" 2>/dev/null)
    test (count $__ureca_found) -gt 0
end
complete -c ureca -n __ureca_ask -f -a '$__ureca_found'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@dataclass(frozen=True)
class Help:
    """What a help text offers: options with their choices, and words that may come first."""

    options: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    """By name: its choices, () if it takes any other value, None if it takes none."""
    actions: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a script; or, for the script, the words that may stand where the cursor is."""
    arguments = list(argv or ())
    if arguments[:1] == ["words"]:
        for word in words(arguments[1:]):
            print(word)
        return 0
    parser = argparse.ArgumentParser(
        prog="ureca completion",
        description="Print a script that lets a shell complete commands, options and choices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(SCRIPTS))
    print(SCRIPTS[parser.parse_args(arguments).shell], end="")
    return 0


def words(typed: Sequence[str], help_of: Callable[[Sequence[str]], str] | None = None) -> list[str]:
    """What may stand for the last of `typed`, the words behind `ureca`; [] leaves it to file names.

    `help_of` gives the help text of a command and its actions; tests pass their own.
    """
    *before, current = typed or [""]
    return [
        word for word in _offered(before, current, help_of or _help) if word.startswith(current)
    ]


def _offered(
    before: Sequence[str], current: str, help_of: Callable[[Sequence[str]], str]
) -> Sequence[str]:
    if not before:
        return (*_commands(), "--help", "--version")
    if before[0] not in _commands():
        return ()
    path = [before[0]]
    known = read_help(help_of(path))
    for word in before[1:]:
        if word in known.actions:
            path.append(word)
            known = read_help(help_of(path))
    choices = known.options.get(before[-1]) if len(before) > 1 else None
    if choices is not None:
        return choices
    return tuple(known.options) if current.startswith("-") else known.actions


def read_help(text: str) -> Help:
    """What the help text of an `argparse` parser offers."""
    options: dict[str, tuple[str, ...] | None] = {}
    actions: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            section = line
        elif re.match(r"  -", line):
            options.update(_option(line))
        elif section == "positional arguments:":
            actions += _actions(line)
    return Help(options, tuple(actions))


def _option(line: str) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """`  -o DIR, --out DIR   where to` names two options that take a value."""
    names = re.split(r"\s{2,}", line.strip())[0].split(", ")
    values = [name.partition(" ")[2] for name in names]
    for name in names:
        yield name.partition(" ")[0], _choices(values[-1]) if values[-1] else None


def _actions(line: str) -> tuple[str, ...]:
    """`  {engine,node}   help`, or an action in a line of its own, indented by four."""
    single = re.match(r" {4}(\w[\w-]*)(\s|$)", line)
    return (single[1],) if single else _choices(line.strip())


def _choices(text: str) -> tuple[str, ...]:
    braces = re.match(r"\{([^} ]+)\}", text)
    return tuple(braces[1].split(",")) if braces else ()


def _commands() -> Sequence[str]:
    from ureca.cli import COMMANDS

    return tuple(COMMANDS)


def _help(path: Sequence[str]) -> str:
    """What `ureca PATH --help` prints; nothing if its extra is not installed."""
    from ureca.cli import COMMANDS

    os.environ["COLUMNS"] = "200"
    text = io.StringIO()
    with contextlib.suppress(SystemExit, ImportError), contextlib.redirect_stdout(text):
        importlib.import_module(COMMANDS[path[0]].module).main([*path[1:], "--help"])
    return text.getvalue()
