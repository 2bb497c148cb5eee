"""The page over HTTP and its data over one WebSocket per browser, on one event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ureca.errors import UrecaError
from ureca.node.viewer.access import HEADERS, LIVE, Guard, Refused
from ureca.node.viewer.browser_session import Session
from ureca.node.viewer.node_connection import Link
from ureca.node.viewer.static_files import StaticFile, files

MAX_MESSAGE_BYTES = 16_384
"""From a browser; a longer message ends its connection."""

_MAX_PAGES = 16
_quiet = logging.getLogger(f"{__name__}.http")
_quiet.setLevel(logging.WARNING)  # who comes and goes is not worth a line each


class PortTakenError(UrecaError):
    """Another process listens there."""


class Viewer:
    """Answers browsers."""

    def __init__(self, link: Link, guard: Guard) -> None:
        self._link = link
        self._guard = guard
        self._files = files()
        self._pages = 0

    def answer(self, _: ServerConnection, request: Request) -> Response | None:
        """A file or a refusal; None goes on to the WebSocket."""
        headers = request.headers
        try:
            host, origin = headers.get("Host"), headers.get("Origin")
        except LookupError:  # given twice
            return _refuse(Refused(400, "one Host and one Origin, please"))
        refused = self._guard.refusal(request.path, host, origin)
        path = request.path.partition("?")[0]
        if refused is None and path == LIVE:
            if self._pages < _MAX_PAGES:
                return None
            refused = Refused(503, f"{_MAX_PAGES} pages are open already")
        if refused is not None:
            return _refuse(refused)
        file = self._files.get(path)
        return _refuse(Refused(404, "nothing here")) if file is None else _show(file)

    async def live(self, socket: ServerConnection) -> None:
        """One browser, until it goes."""
        self._pages += 1
        try:
            await Session(socket, self._link).run()
        except ConnectionClosed:
            pass
        finally:
            self._pages -= 1


def _show(file: StaticFile) -> Response:
    return _response(HTTPStatus.OK, file.kind, file.body)


def _refuse(refused: Refused) -> Response:
    body = f"{refused.why}\n".encode()
    return _response(HTTPStatus(refused.status), "text/plain; charset=utf-8", body)


def _response(status: HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers(
        {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **HEADERS}
    )
    return Response(status.value, status.phrase, headers, body)


@asynccontextmanager
async def served(link: Link, guard: Guard, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port. Raises `PortTakenError` with the remedy."""
    viewer = Viewer(link, guard)
    serving = serve(
        viewer.live,
        host,
        port,
        process_request=viewer.answer,
        compression=None,  # pictures are compressed already
        max_size=MAX_MESSAGE_BYTES,
        max_queue=8,
        write_limit=1 << 16,
        open_timeout=10,
        ping_interval=10,
        ping_timeout=20,
        server_header=None,
        logger=_quiet,
    )
    async with AsyncExitStack() as stack:
        try:
            server: Server = await stack.enter_async_context(serving)
        except OSError as error:
            raise PortTakenError(
                f"cannot serve on {host}:{port}: {error.strerror or error}; "
                "choose another with --port"
            ) from error
        yield int(next(iter(server.sockets)).getsockname()[1])
