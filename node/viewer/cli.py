"""`ureca view`: a page in the browser that shows a running node."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import sys
import webbrowser
from collections.abc import Sequence

from ureca.client.async_client import AsyncClient
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.log import configure
from ureca.node.viewer.access import Guard
from ureca.security.keys import ClientKeys, add_key_options, keys_of

DEFAULT_PORT = 8600
_NICE = 10
"""A node on the same host is the default."""
_NODE = re.compile(r"(?:tcp://)?(\[[0-9a-fA-F:.]+\]|[^:/\s]+)(?::(\d{1,5}))?")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C."""
    options = _parser().parse_args(argv)
    configure("info")
    events, requests = addresses(options.node, options.events, options.requests)
    keys = keys_of(options)
    guard = Guard(options.host, options.token, has_key=keys is not None)
    require("websockets", extra="view")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(options, guard, events, requests, keys))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca view",
        description="Serve a page that shows a running node: video, regions, captions, metrics.",
        epilog="examples: ureca view · ureca view robot.local --key me.key_secret --server-key "
        "node.key · ureca view --host 0.0.0.0 (prints a URL with a token)",
    )
    parser.add_argument(
        "node",
        nargs="?",
        metavar="NODE",
        help="HOST or HOST:PORT of the node's events [127.0.0.1:5601]",
    )
    parser.add_argument("--events", help=f"address of the node's events [{EVENTS_ADDRESS}]")
    parser.add_argument("--requests", help=f"address of the node's requests [{REQUESTS_ADDRESS}]")
    add_key_options(parser)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0: any [%(default)s]")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind; 0.0.0.0: everybody with the token may connect",
    )
    parser.add_argument("--token", help="token that a browser must send [random if needed]")
    parser.add_argument(
        "--fps", type=float, default=12.0, help="images per second, at most [%(default)g]"
    )
    parser.add_argument("--width", type=int, default=640, help="width of images, px [%(default)s]")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    return parser


def addresses(node: str | None, events: str | None, requests: str | None) -> tuple[str, str]:
    """The addresses of events and requests; the port of requests is the next one."""
    if node is None:
        return events or EVENTS_ADDRESS, requests or REQUESTS_ADDRESS
    found = _NODE.fullmatch(node)
    port = int(found[2] or 5601) if found else 0
    if found is None or not 0 < port < 65_535:
        raise ConfigError(f"expected HOST or HOST:PORT, got {node!r}; or use --events, --requests")
    return events or f"tcp://{found[1]}:{port}", requests or f"tcp://{found[1]}:{port + 1}"


async def _serve(
    options: argparse.Namespace, guard: Guard, events: str, requests: str, keys: ClientKeys | None
) -> None:
    from ureca.node.viewer.node_connection import Link
    from ureca.node.viewer.server import served

    _check(options)
    os.nice(_NICE)
    async with AsyncClient.connect(events, requests, keys=keys) as client:
        link = Link(client, max_hz=options.fps, width_px=options.width)
        async with served(link, guard, options.host, options.port) as port:
            url = _url(options.host, port, guard.token)
            print(f"ureca view: {url}", flush=True)
            if options.open:
                await asyncio.to_thread(webbrowser.open, url)
            tasks = [asyncio.create_task(link.run())]
            if options.until_eof:
                tasks.append(asyncio.create_task(_eof()))
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


def _check(options: argparse.Namespace) -> None:
    if not 0.1 <= options.fps <= 60:
        raise ConfigError(f"--fps is 0.1 to 60, got {options.fps:g}")
    if not 64 <= options.width <= 1920:
        raise ConfigError(f"--width is 64 to 1920, got {options.width}")
    if not 0 <= options.port <= 65_535:
        raise ConfigError(f"--port is 0 to 65535, got {options.port}")


def _url(host: str, port: int, token: str) -> str:
    """What to type into a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104  (compared)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


async def _eof() -> None:
    """Until standard input ends: the process that started this one has gone."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    handle = sys.stdin.fileno()

    def read() -> None:
        if not os.read(handle, 4096):
            gone.set()

    loop.add_reader(handle, read)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
