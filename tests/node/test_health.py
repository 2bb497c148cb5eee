"""One rule of health: in the contract, for `/healthz`, for the metrics and for `ureca health`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.contract.test_client import fake_node
from ureca import cli
from ureca.datatypes import EngineInfo
from ureca.node.monitoring.health import health_of
from ureca.node.monitoring.http_server import StatusServer
from ureca.node.monitoring.metrics import PrometheusMetrics
from ureca.protocol.events import Heartbeat
from ureca.protocol.requests import Health, Reply, Request
from ureca.testing import ScriptedEngine

pytest.importorskip("prometheus_client")

STATES = ("starting", "running", "paused", "draining", "degraded", "stopped", "unknown")
REASONS = ((), ("rtsp://camera: no picture within 2 s",))
EVERY = [(state, reasons) for state in STATES for reasons in REASONS]


def expected(state: str, reasons: tuple[str, ...]) -> bool:
    return (state, reasons) in {("running", ()), ("paused", ())}


@dataclass
class Said:
    """A node's `NodeStatus` in a state that somebody chose."""

    state: str
    why: tuple[str, ...]

    @property
    def info(self) -> EngineInfo:
        return ScriptedEngine().info

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            uptime_ms=1,
            state=self.state,  # type: ignore[arg-type]  # also those of no heartbeat
            counters={},
            streams={},
            model="",
            bundle_sha="",
        )

    def reasons(self) -> tuple[str, ...]:
        return self.why

    find_by = "caption_words"

    def last_events(self) -> list[Any]:
        return []

    def refused(self) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize(("state", "reasons"), EVERY)
def test_a_node_that_runs_or_is_paused_without_a_reason_is_healthy(
    state: str, reasons: tuple[str, ...]
) -> None:
    health = Health(state=state, uptime_ms=1, reasons=reasons)
    assert health.is_healthy is expected(state, reasons)
    assert "is_healthy" not in msgspec.to_builtins(health)  # the wire is as it was


@pytest.mark.parametrize(("state", "reasons"), EVERY)
def test_healthz_and_metrics_go_by_the_rule(state: str, reasons: tuple[str, ...]) -> None:
    with StatusServer("127.0.0.1", 0, Said(state, reasons), PrometheusMetrics()) as server:
        url = f"http://127.0.0.1:{server.port}"
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=20) as reply:
                status, body = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        with urllib.request.urlopen(f"{url}/metrics", timeout=20) as reply:
            metrics = reply.read().decode()
    assert status == (200 if expected(state, reasons) else 503)
    assert tuple(json.loads(body)["reasons"]) == reasons
    assert f"ureca_healthy {float(expected(state, reasons))}" in metrics


@pytest.mark.parametrize(("state", "reasons"), EVERY)
def test_the_command_goes_by_the_rule(
    capsys: pytest.CaptureFixture[str], state: str, reasons: tuple[str, ...]
) -> None:
    def answers(request: Request) -> Iterator[Reply]:
        result = msgspec.to_builtins(health_of(Said(state, reasons)))
        yield Reply(v=(2, 0), id=request.id, status="result", result=result)

    with fake_node(answers=answers) as node:
        code = cli.main(["health", "--requests", node.requests, "--timeout", "20"])
    assert code == (0 if expected(state, reasons) else 1)
    assert all(reason in capsys.readouterr().out for reason in reasons)
