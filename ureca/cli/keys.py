"""`ureca keys`: create CURVE keys and set who may do what at this node."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ureca.errors import ConfigError
from ureca.security.keys import (
    ALLOW_LIST,
    NAME_PATTERN,
    ROLES,
    AllowList,
    Role,
    make_private_folder,
    new_pair,
    read_public,
)

_EXAMPLES = """examples:
  ureca keys new node -o keys                          the node's own pair
  ureca keys new robot --role observe -o keys          a pair, and a line in keys/allow.txt
  ureca keys allow robot.key --role request -o keys    let in a public key that was sent to you
  ureca keys revoke robot -o keys                      nobody comes in with it any more
  ureca keys list -o keys

then, at the node:
  ureca run --set security.key=keys/node.key_secret --set security.allow=keys/allow.txt
and at the robot:
  ureca watch --key robot.key_secret --server-key node.key
"""
_WHAT = {
    "camera": "send frames to a node",
    "observe": "hear events and ask hello, time, snapshot, stats, health, region.list",
    "request": "do that, and describe, find, cancel, region.*, prompt.set, policy.set",
    "admin": "do everything: pause, drain, shutdown, recording, configuration",
}
_HEAD = "# ROLE PUBLIC_KEY NAME, one line each; `ureca keys allow` and `revoke` write it.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the four; raises deliberate errors for the command line."""
    options = _parser().parse_args(argv)
    folder = Path(options.output)
    actions: dict[str, Callable[[], None]] = {
        "new": lambda: _new(options, folder),
        "allow": lambda: _allow(options, folder),
        "revoke": lambda: _revoke(options, folder),
        "list": lambda: _list(folder, as_json=options.json),
    }
    actions[options.action]()
    return 0


def default_folder() -> Path:
    """The default folder of keys."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ureca" / "keys"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca keys",
        description="Create CURVE keys, and set who may do what at this node.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="create NAME.key and NAME.key_secret")
    new.add_argument("name", metavar="NAME")
    allow = actions.add_parser("allow", help="allow a public key, or change its role")
    allow.add_argument("file", metavar="NAME.key")
    allow.add_argument("--name", help="name in the list [the file's name]")
    actions.add_parser("revoke", help="remove a name from the list").add_argument("name")
    listing = actions.add_parser("list", help="show the list, and the keys in this folder")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    for action, parsed in actions.choices.items():
        parsed.add_argument(
            "-o", "--output", metavar="DIR", default=str(default_folder()), help="[%(default)s]"
        )
        if action in ("new", "allow"):
            parsed.add_argument(
                "--role",
                choices=ROLES,
                required=action == "allow",
                help="; ".join(f"{role}: {what}" for role, what in _WHAT.items()),
            )
    return parser


def _new(options: argparse.Namespace, folder: Path) -> None:
    public, secret = new_pair(folder, options.name)
    print(f"{public}         public: give it to the other side")
    print(f"{secret}  secret: stays here, readable by its owner only")
    if options.role:
        _let_in(folder, options.role, read_public(public), options.name)


def _allow(options: argparse.Namespace, folder: Path) -> None:
    path = Path(options.file)
    _let_in(folder, options.role, read_public(path), options.name or path.stem)


def _let_in(folder: Path, role: Role, public: bytes, name: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"a name matches {NAME_PATTERN.pattern}, got {name!r}; see --name")
    kept = [line for line in _lines(folder) if not _is_about(line, public.decode("ascii"), name)]
    _write(folder, [*kept, f"{role} {public.decode('ascii')} {name}\n"])
    print(f"{folder / ALLOW_LIST}: {name} may now {_WHAT[role]}")


def _revoke(options: argparse.Namespace, folder: Path) -> None:
    lines = _lines(folder)
    kept = [line for line in lines if not _is_about(line, options.name, options.name)]
    if len(kept) == len(lines):
        raise ConfigError(f"{options.name!r} is not in {folder / ALLOW_LIST}; see: ureca keys list")
    _write(folder, kept)
    print(f"{folder / ALLOW_LIST}: {options.name} is out; a running node has noticed in a second")


def _list(folder: Path, *, as_json: bool) -> None:
    path = folder / ALLOW_LIST
    entries = AllowList(path).entries() if path.exists() else {}
    allowed = [
        {"role": role, "public_key": public.decode("ascii"), "name": name}
        for public, (role, name) in entries.items()
    ]
    keys = [
        {"file": str(key), "secret": key.with_suffix(".key_secret").exists()}
        for key in sorted(folder.glob("*.key"))
    ]
    if as_json:
        print(json.dumps({"allow": str(path), "allowed": allowed, "keys": keys}))
        return
    for one in allowed:
        print(f"{one['role']:<8} {one['public_key']} {one['name']}")
    if not entries:
        print(f"{path} lets nobody in")
    for key in keys:
        print(f"{key['file']}  {'and its secret' if key['secret'] else 'public only'}")


def _lines(folder: Path) -> list[str]:
    path = folder / ALLOW_LIST
    if not path.exists():
        return [_HEAD]
    AllowList(path)  # refuses one that others may change
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _is_about(line: str, key: str, name: str) -> bool:
    words = line.split()
    return not line.startswith("#") and len(words) == 3 and (key in words[1:] or words[2] == name)


def _write(folder: Path, lines: list[str]) -> None:
    """Whole or not at all: a node may be reading it."""
    try:
        make_private_folder(folder)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.writelines(lines)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(folder / ALLOW_LIST)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / ALLOW_LIST}: {error.strerror}") from error
