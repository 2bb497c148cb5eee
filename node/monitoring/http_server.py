"""`/metrics` and `/healthz` over HTTP, for Prometheus and supervisors. Off by default, and on
loopback only, because it needs no key.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

import msgspec

from ureca.errors import ConfigError
from ureca.node.monitoring.health import NodeStatus, health_of
from ureca.node.monitoring.metrics import PrometheusMetrics
from ureca.node.viewer.access import is_loopback_name

MAX_CONNECTIONS = 8
MAX_REQUEST_BYTES = 8192
DEADLINE_S = 5.0
"""The longest time from accepting a connection to closing it."""
_POLL_S = 0.2
_log = logging.getLogger(__name__)


class StatusServer:
    """Serves until it is closed; `port` 0 takes any free one. Use it as a context manager."""

    def __init__(self, host: str, port: int, facts: NodeStatus, metrics: PrometheusMetrics) -> None:
        handler = partial(_Handler, facts=facts, metrics=metrics)
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise ConfigError(
                f"cannot serve http on {host}:{port}: {error.strerror}; choose another --http PORT"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="ureca-http"
        )
        self._thread.start()

    def __enter__(self) -> StatusServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut what is still connected."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut(older_than_s=0)
        self._server.server_close()  # joins the threads of the connections


class _Server(ThreadingHTTPServer):
    """A server that keeps few connections, none of them for long."""

    daemon_threads = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._since_s: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuses one connection too many."""
        with self._lock:
            if len(self._since_s) >= MAX_CONNECTIONS:
                return False
            self._since_s[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        """The connection has ended."""
        with self._lock:
            self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between two polls."""
        self.cut(older_than_s=DEADLINE_S)

    def cut(self, *, older_than_s: float) -> None:
        """Close the connections that have been open for longer."""
        now_s = time.monotonic()
        with self._lock:
            for connection, since_s in self._since_s.items():
                if now_s - since_s >= older_than_s:
                    _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no fault of ours; anything else goes to the log."""
        _log.debug("an http connection ended early", exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
    except OSError:
        _log.debug("an http connection had ended", exc_info=True)


class _Capped:
    """A reader that ends after `MAX_REQUEST_BYTES`."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._left = file, MAX_REQUEST_BYTES
        self.close = file.close

    def readline(self, limit: int = -1) -> bytes:
        """One line, or what is left of it."""
        line = self._file.readline(self._left if limit < 0 else min(limit, self._left))
        self._left -= len(line)
        return line


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "ureca", ""
    timeout = DEADLINE_S

    def __init__(self, *args: Any, facts: NodeStatus, metrics: PrometheusMetrics) -> None:
        self._facts, self._metrics = facts, metrics
        super().__init__(*args)

    def setup(self) -> None:
        """Bound what is read."""
        super().setup()
        self.rfile = _Capped(self.rfile)  # type: ignore[assignment]

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if not all(map(is_loopback_name, self.headers.get_all("Host", ["localhost"]))):
            self._say(403, "text/plain", b"this name is not this host's\n")
        elif path == "/metrics":
            body = self._metrics.text(self._facts)
            self._say(200, "text/plain; version=0.0.4; charset=utf-8", body)
        elif path == "/healthz":
            health = health_of(self._facts)
            body = json.dumps(msgspec.to_builtins(health)).encode()
            self._say(200 if health.is_healthy else 503, "application/json", body)
        else:
            self._say(404, "text/plain", b"there are /metrics and /healthz\n")

    do_HEAD = do_GET  # noqa: N815  (the library's name)

    def _say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
        """To the log, not to stderr."""
        _log.debug(format, *args)
