"""`ureca completion`: a script that completes commands, options and choices in bash, zsh and fish.

The scripts and the answers are `argcomplete`'s. At every Tab the script runs `ureca` with
`_ARGCOMPLETE` set; `complete` then reads the options off the parser that the command itself builds.
So nothing can go stale, and names of commands load no room.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import argcomplete
from argcomplete.lexers import split_line
from argcomplete.shell_integration import shellcode

_EPILOG = """examples:
  source <(ureca completion bash)                                       this shell; or in ~/.bashrc
  source <(ureca completion zsh)                                        after compinit, in ~/.zshrc
  ureca completion fish > ~/.config/fish/completions/ureca.fish"""

SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script for one shell."""
    parser = argparse.ArgumentParser(
        prog="ureca completion",
        description="Print a script that lets a shell complete commands, options and choices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    print(shellcode(["ureca"], shell=parser.parse_args(argv).shell), end="")
    return 0


def complete(
    *, exit_method: Callable[[int], object] = os._exit, output: TextIO | None = None
) -> int:
    """Answer what may stand at the cursor of `COMP_LINE`, and end the process by `exit_method`.

    Returns only when there is nothing to say. The answer goes to `output`, or to file descriptor 8,
    where the scripts read it.
    """
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    before = split_line(line, point)[3]

    def answer(parser: argparse.ArgumentParser, words: int) -> None:
        """Offer what `parser` takes behind the first `words` words."""
        os.environ["_ARGCOMPLETE"] = str(words)
        argcomplete.autocomplete(
            parser, always_complete_options=False, exit_method=exit_method, output_stream=output
        )

    from ureca.cli import COMMANDS

    if len(before) < 2:
        answer(_command_parser(), 1)
    elif before[1] in COMMANDS:
        arguments = before[2:]
        with _parsing_answers(arguments, lambda parser, n: answer(parser, len(before) - n)):
            importlib.import_module(COMMANDS[before[1]].module).main(arguments)
    return 1


@contextmanager
def _parsing_answers(
    arguments: Sequence[str], answer: Callable[[argparse.ArgumentParser, int], None]
) -> Iterator[None]:
    """Within it, a parser that is to parse the last n of `arguments` calls `answer(parser, n)`.

    A command hands its arguments to the parser of an action, or parses them before it does anything
    else; so the first parser is the one that the next word is for, and nothing is carried out.
    """
    parse = argparse.ArgumentParser.parse_args

    def answered(self: argparse.ArgumentParser, args: Sequence[str], *_: Any) -> Any:
        if list(args) == list(arguments[len(arguments) - len(args) :]):
            answer(self, len(args))
        raise SystemExit(1)

    argparse.ArgumentParser.parse_args = answered  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]


def _command_parser() -> argparse.ArgumentParser:
    """The parser of the first word: the commands with what they are for."""
    from ureca.cli import COMMANDS

    parser = argparse.ArgumentParser(prog="ureca")
    parser.add_argument("-V", "--version", action="store_true")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
    return parser
