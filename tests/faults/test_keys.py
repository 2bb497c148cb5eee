"""Key files, the allow-list, and what is refused before a socket is bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zmq
import zmq.auth

from ureca.cli import keys
from ureca.client.frame_publisher import FramePublisher
from ureca.clock import MonotonicClock
from ureca.errors import ConfigError
from ureca.node.config import NodeConfig, PublishConfig, SecurityConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import FrameSource
from ureca.node.sources.factory import open_source
from ureca.security.keys import ClientKeys, parse_allow_list, read_pair


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys.main(["new", "me", "-o", str(tmp_path)])
    path = tmp_path / "me.key_secret"
    assert path.stat().st_mode & 0o777 == 0o600
    pair = read_pair(path)
    for mode in (0o644, 0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_pair(path)
    path.chmod(0o600)
    secret = pair.secret.decode()
    assert secret not in repr(pair)
    assert secret not in repr(ClientKeys(pair, pair.public))


def test_key_files_are_those_of_pyzmq(tmp_path: Path) -> None:
    keys.main(["new", "me", "-o", str(tmp_path)])
    pair = read_pair(tmp_path / "me.key_secret")
    assert zmq.auth.load_certificate(tmp_path / "me.key_secret") == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(tmp_path / "me.key") == (pair.public, None)
    _, theirs = zmq.auth.create_certificates(tmp_path, "theirs")
    Path(theirs).chmod(0o600)
    assert read_pair(Path(theirs)).public == zmq.auth.load_certificate(theirs)[0]


def test_the_list_is_shown_to_machines_too(tmp_path: Path, capsys) -> None:
    keys.main(["new", "robot", "--role", "observe", "-o", str(tmp_path)])
    capsys.readouterr()
    keys.main(["list", "--json", "-o", str(tmp_path)])
    shown = json.loads(capsys.readouterr().out)
    public = (tmp_path / "robot.key").read_text().partition('public-key = "')[2].partition('"')[0]
    assert shown["allowed"] == [{"role": "observe", "public_key": public, "name": "robot"}]
    assert shown["keys"] == [{"file": str(tmp_path / "robot.key"), "secret": True}]


def test_damaged_and_missing_key_files_say_what_to_do(tmp_path: Path) -> None:
    for name in ("me", "other"):
        keys.main(["new", name, "-o", str(tmp_path)])
    mixed = tmp_path / "mixed.key_secret"
    other = read_pair(tmp_path / "other.key_secret").public.decode()
    me = read_pair(tmp_path / "me.key_secret").public.decode()
    mixed.write_text((tmp_path / "me.key_secret").read_text().replace(me, other))
    mixed.chmod(0o600)
    with pytest.raises(ConfigError, match="do not belong together"):
        read_pair(mixed)
    public = tmp_path / "me.key"
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="ureca keys new"):
        read_pair(public)
    with pytest.raises(ConfigError, match="ureca keys"):
        read_pair(tmp_path / "nobody.key_secret")
    with pytest.raises(ConfigError, match="exists"):
        keys.main(["new", "me", "-o", str(tmp_path)])


def test_lines_that_are_no_entry_let_nobody_in() -> None:
    key = "a" * 40
    said: list[str] = []
    text = f"# note\n\nadmin {key} ok\nroot {'b' * 40} no\nobserve short no\nobserve {key}\n"
    assert parse_allow_list(text, on_error=said.append) == {key.encode(): ("admin", "ok")}
    assert [line.split(":")[0] for line in said] == ["line 4", "line 5", "line 6"]


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "udp://1.2.3.4:5"]
)
def test_a_socket_on_the_network_wants_keys(address: str) -> None:
    with pytest.raises(ConfigError, match="ureca keys new"):
        FramePublisher(address)
    for plane in ("events", "requests"):
        with pytest.raises(ConfigError, match=r"ureca keys new(.|\n)*security\.allow"):
            NodeConfig(publish=PublishConfig(**{plane: address}))


def test_half_a_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="go together"):
        SecurityConfig(key="k")
    with pytest.raises(ConfigError, match="go together"):
        SecurityConfig(allow="a")
    with pytest.raises(ConfigError, match=r"security\.key"):
        SecurityConfig(camera="c")


def test_pictures_of_another_host_are_not_read_in_the_clear() -> None:
    source = SourceConfig(uri="zmq+tcp://10.0.0.2:5600")

    def opened(security: SecurityConfig) -> FrameSource:
        config = NodeConfig(source=source, security=security)
        return open_source(
            config, clock=MonotonicClock(), counters=NodeCounters(), wait=lambda _: True
        )

    with pytest.raises(ConfigError, match=r"security\.camera=keys/camera\.key"):
        opened(SecurityConfig())
    assert opened(SecurityConfig(key="k", allow="a", camera="c")).is_lossless is False
