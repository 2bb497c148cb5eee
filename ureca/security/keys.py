"""CURVE keys: the identity of a peer, the key that it expects, and the keys that it allows.

A key pair is two files, as pyzmq and czmq write them: `NAME.key` (public, to be handed round) and
`NAME.key_secret` (stays where it is, mode 0600). An allow-list is a text file of lines `ROLE
PUBLIC_KEY NAME`. `ureca keys` makes both; `docs/security.md` shows how they fit together.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import zmq
from zmq.utils import z85

from ureca.errors import ConfigError

Role = Literal["camera", "observe", "request", "admin"]
"""`camera` sends frames; `observe` receives events and sends read-only requests; `request` also
describes and changes regions, prompts and policies; `admin` also pauses, records and ends.
"""
ROLES: tuple[Role, ...] = get_args(Role)

NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")
ALLOW_LIST = "allow.txt"
_FIELD = re.compile(r'^\s*(public|secret)-key\s*=\s*"([!-~]{40})"\s*$', re.MULTILINE)
_MAX_KEY_BYTES = 1 << 16
_MAX_LIST_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public and a secret key, 40 characters of Z85 each. The secret is never shown."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """Keys of the connecting side: its own pair and the public key of the expected peer."""

    own: KeyPair
    server: bytes

    @classmethod
    def read(cls, key: Path | str, server_key: Path | str) -> ClientKeys:
        """Read the own secret file and the peer's public file; `ConfigError`."""
        return cls(read_pair(Path(key)), read_public(Path(server_key)))

    def encrypt(self, socket: zmq.Socket[Any], address: str) -> None:
        """Before `connect`. An ipc address is guarded by the permissions of its file instead."""
        if needs_curve(address):
            socket.curve_publickey = self.own.public
            socket.curve_secretkey = self.own.secret
            socket.curve_serverkey = self.server


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Keys of the binding side: its own pair and the allow-list."""

    own: KeyPair
    allow: AllowList

    @classmethod
    def read(cls, key: Path | str, allow: Path | str) -> ServerKeys:
        """From a secret file and an allow-list; `ConfigError` names what to repair."""
        return cls(read_pair(Path(key)), AllowList(Path(allow)))


def needs_curve(address: str) -> bool:
    """Whether an address uses TCP, where only CURVE identifies the peer."""
    return address.startswith("tcp://")


class AllowList:
    """Public key to role and name, read again whenever the file changes.

    A wrong line allows no key; a missing file allows no key at all. Both are logged.
    Raises `ConfigError` when the file cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = (0, 0, 0)
        self._entries: dict[bytes, tuple[Role, str]] = {}
        self._entries, self._seen = self._load(), self._stamp()

    def role_of(self, public: bytes) -> Role | None:
        """The role of a key in the current file; None for an unknown key."""
        return self.entries().get(public, (None, ""))[0]

    def name_of(self, public: bytes) -> str:
        """The name of a key in the file; `?` for an unknown key."""
        return self._entries.get(public, (None, "?"))[1]

    def entries(self) -> dict[bytes, tuple[Role, str]]:
        """All keys with role and name. Never raises: an unusable file allows no key."""
        try:
            if (stamp := self._stamp()) != self._seen:
                self._entries, self._seen = self._load(), stamp
        except (ConfigError, OSError) as error:
            if self._entries:
                _log.error("nobody is let in any more: %s", error)
            self._entries, self._seen = {}, (0, 0, 0)
        return self._entries

    def _stamp(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> dict[bytes, tuple[Role, str]]:
        text = _read(self.path, _MAX_LIST_BYTES, _refuse_writable)
        return parse_allow_list(text, on_error=lambda why: _log.error("%s: %s", self.path, why))


def parse_allow_list(
    text: str, *, on_error: Callable[[str], None] = _log.error
) -> dict[bytes, tuple[Role, str]]:
    """Lines `ROLE PUBLIC_KEY NAME`; empty lines and those that begin with `#` are left out."""
    entries: dict[bytes, tuple[Role, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        role = next((role for role in ROLES if role == words[0]), None)
        if len(words) != 3 or role is None or not _is_key(words[1]):
            on_error(f"line {number}: expected ROLE PUBLIC_KEY NAME with a role of {list(ROLES)}")
            continue
        entries[words[1].encode("ascii")] = (role, words[2])
    return entries


def read_pair(path: Path) -> KeyPair:
    """A secret file; `ConfigError` when others may read it or it is no key file."""
    found = dict(_FIELD.findall(_read(path, _MAX_KEY_BYTES, _refuse_readable)))
    if not {"public", "secret"} <= found.keys():
        raise ConfigError(
            f"{path} is no secret key file (NAME.key_secret); make one with: ureca keys new NAME"
        )
    pair = KeyPair(found["public"].encode("ascii"), found["secret"].encode("ascii"))
    if not _is_key(found["secret"]) or zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"{path} is damaged: its two keys do not belong together")
    return pair


def read_public(path: Path) -> bytes:
    """A public file (a secret one will do: it holds both)."""
    found = dict(_FIELD.findall(_read(path, _MAX_KEY_BYTES, _refuse_foreign)))
    if not _is_key(found.get("public", "")):
        raise ConfigError(f"{path} is no public key file (NAME.key, as `ureca keys new` writes it)")
    public: str = found["public"]
    return public.encode("ascii")


def new_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make `NAME.key` and `NAME.key_secret` in `folder`; never overwrites."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"a key's name matches {NAME_PATTERN.pattern}, got {name!r}")
    public, secret = (text.decode("ascii") for text in zmq.curve_keypair())
    paths = folder / f"{name}.key", folder / f"{name}.key_secret"
    lines = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{public}"\n'
    try:
        make_private_folder(folder)
        _create(paths[1], f'{lines}    secret-key = "{secret}"\n', 0o600)
        _create(paths[0], lines, 0o644)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists; take another name, or remove both") from error
    except OSError as error:
        raise ConfigError(f"cannot write keys to {folder}: {error.strerror}") from error
    return paths


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents for this user alone, whatever the umask; `OSError`."""
    for missing in (*reversed(folder.parents), folder):  # `parents=True` ignores the mode
        missing.mkdir(mode=0o700, exist_ok=True)


def _create(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)


def _is_key(text: str) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text.encode("ascii"))) == 32
    except (ValueError, KeyError, UnicodeEncodeError):
        return False


def _read(
    path: Path, most: int, refuse: Callable[[Path, os.stat_result], None] | None = None
) -> str:
    """The file's text; the permissions are those of the very file that is read."""
    try:
        with path.open("rb") as file:
            if refuse is not None:
                refuse(path, os.fstat(file.fileno()))
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; `ureca keys --help` shows how keys are made"
        ) from error
    if len(data) > most:
        raise ConfigError(f"{path} has more than {most} bytes: it is no file of keys")
    return data.decode("utf-8", "replace")


def _refuse_foreign(path: Path, about: os.stat_result) -> None:
    if about.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path} belongs to user {about.st_uid}, who may change it at any time: run "
            f"chown $USER {path}, after a look at what stands in it"
        )


def _refuse_readable(path: Path, about: os.stat_result) -> None:
    _refuse_foreign(path, about)
    mode = about.st_mode
    if mode & 0o077:
        raise ConfigError(
            f"others may read the secret key {path} (mode {mode & 0o777:o}): run chmod 600 {path}, "
            "and take a new key if somebody may have seen it"
        )


def _refuse_writable(path: Path, about: os.stat_result) -> None:
    _refuse_foreign(path, about)
    mode = about.st_mode
    if mode & 0o022:
        raise ConfigError(
            f"others may change the allow-list {path} (mode {mode & 0o777:o}): run "
            f"chmod go-w {path}, after a look at who stands in it"
        )


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """`--key` and `--server-key` of every command that connects to a node."""
    parser.add_argument(
        "--key", metavar="FILE", help="secret key of this client, NAME.key_secret [$URECA_KEY]"
    )
    parser.add_argument(
        "--server-key", metavar="FILE", help="public key of the node, NODE.key [$URECA_SERVER_KEY]"
    )


def keys_of(options: argparse.Namespace) -> ClientKeys | None:
    """The keys that these options or the environment name; None for neither."""
    key = options.key or os.environ.get("URECA_KEY")
    server = options.server_key or os.environ.get("URECA_SERVER_KEY")
    if bool(key) != bool(server):
        raise ConfigError("--key and --server-key (URECA_KEY, URECA_SERVER_KEY) go together")
    return ClientKeys.read(key, server) if key and server else None
