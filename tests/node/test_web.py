"""`/metrics` and `/healthz` of a whole node over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.node.test_node_sockets import Running, start, until_final  # noqa: F401  (a fixture)
from ureca.errors import ConfigError
from ureca.node.config import HttpConfig
from ureca.node.monitoring import http_server
from ureca.node.monitoring.http_server import MAX_CONNECTIONS, StatusServer
from ureca.node.monitoring.metrics import PrometheusMetrics
from ureca.node.monitoring.run_report import RunReport
from ureca.testing import ScriptedEngine

parser = pytest.importorskip("prometheus_client.parser")
Start = Callable[..., Running]


@contextmanager
def served(running: Running) -> Iterator[StatusServer]:
    with StatusServer("127.0.0.1", 0, running.node, PrometheusMetrics()) as server:
        yield server


def get(server: StatusServer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it does within some seconds; a connection that is refused does not."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if holds():
                return True
        time.sleep(0.05)
    return False


def connect(server: StatusServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port))


def counters(text: bytes) -> dict[str, int]:
    """Prometheus samples back under the heartbeat's names."""
    prefixes = {"reason": "drop_", "end": "caption_", "fault": "gate_"}
    found = {}
    for family in parser.text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            name = sample.name.removeprefix("ureca_").removesuffix("_total")
            label = next(
                (prefixes[key] + v for key, v in sample.labels.items() if key in prefixes), ""
            )
            found[label or name] = int(sample.value)
    return found


def test_metrics_heartbeat_and_summary_tell_the_same(start: Start) -> None:  # noqa: F811
    running = start(
        ScriptedEngine(hook=lambda call, token: "ok" if call else "non_finite"), frames=120
    )
    with served(running) as server:
        assert running.node.wait(60)
        running.node.close()
        status, text = get(server, "/metrics")
    assert status == 200
    beat = running.capture.of("heartbeat")[-1].counters  # type: ignore[union-attr]
    told = counters(text)
    assert beat["gate_non_finite"] == 3
    assert beat["caption_final"] >= 3
    assert {key: told.get(key) for key in beat} == beat
    summary = RunReport().text(running.node.balance(), seconds=1)
    assert f"frames      {beat['frames_in']} in" in summary
    assert f"captions    {beat['requests_in']} requested" in summary
    assert f"{beat['caption_final']} final" in summary


def test_health_is_503_while_captions_fail(start: Start) -> None:  # noqa: F811
    running = start(ScriptedEngine(hook=lambda call, token: "raise" if call < 2 else "ok"))
    with served(running) as server, running.client() as client:
        assert eventually(lambda: bool(client.hello().streams))
        client.set_policy("cam0", min_interval_ms=0, max_interval_ms=100)
        seen = set()
        until = time.monotonic() + 30
        while seen != {200, 503} and time.monotonic() < until:
            status, body = get(server, "/healthz")
            health = json.loads(body)
            assert (status == 503) == (health["state"] == "degraded") == bool(health["reasons"])
            seen.add(status)
        assert seen == {200, 503}
        assert eventually(lambda: get(server, "/healthz")[0] == 200)
        client.pause()
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/")[0] == 404


def test_a_page_of_another_site_cannot_read_the_state(start: Start) -> None:  # noqa: F811
    """After DNS rebinding its name leads here, and its requests say that name."""
    with served(start()) as server:
        for host, status in (("evil.example", b"403"), ("localhost:1", b"200")):
            with connect(server) as link:
                link.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert link.recv(12).split()[1] == status


def test_a_crowd_and_a_dawdler_do_not_keep_others_out(
    start: Start,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "DEADLINE_S", 0.5)
    running = start()
    with served(running) as server, running.client() as client:
        until_final(client)
        idle = [
            socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)
        ]
        try:
            for connection in idle:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
                connection.settimeout(20)
            assert all(connection.recv(1) == b"" for connection in idle)  # hung up on
        finally:
            for connection in idle:
                connection.close()
        assert eventually(lambda: get(server, "/healthz")[0] == 200)


def test_one_connection_too_many_is_closed_at_once(start: Start) -> None:  # noqa: F811
    running = start()
    with served(running) as server:
        held = [
            socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)
        ]
        extra = connect(server)
        extra.settimeout(3)
        try:
            assert extra.recv(1) == b""
        finally:
            for connection in (*held, extra):
                connection.close()


def test_an_endless_header_is_cut_off(start: Start) -> None:  # noqa: F811
    running = start()
    with served(running) as server:
        with connect(server) as connection:
            connection.settimeout(20)
            try:
                for _ in range(200):
                    connection.sendall(b"X" * 4096)
                answer = connection.recv(100)
            except OSError:
                answer = b""
        assert not answer.startswith(b"HTTP/1.0 200")
        assert get(server, "/healthz")[0] in (200, 503)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.9", ""])
def test_the_network_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        HttpConfig(host=host, port=8600)
