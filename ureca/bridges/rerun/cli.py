"""`ureca rerun`: logs images, regions and captions of a node to Rerun."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ureca.bridges.node_follower import NodeFollower
from ureca.bridges.rerun.log import EXTRA, RerunLog
from ureca.client.async_client import AsyncClient
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.log import configure
from ureca.security.keys import add_key_options, keys_of

_EPILOG = """examples:
  ureca rerun                                     open a viewer and log to it
  ureca rerun --save run.rrd --duration 60        log to a file: rerun run.rrd
  ureca rerun --connect rerun+http://127.0.0.1:9876/proxy
                                                  log to a viewer that runs already"""


def main(argv: Sequence[str] | None = None) -> int:
    """Log until Ctrl-C or `--duration`. Raises deliberate errors for the command line."""
    options = _parser().parse_args(argv)
    configure("info")
    recording = _open(options)
    log = RerunLog(recording)
    with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
        asyncio.run(_run(options, log))
    recording.flush()
    recording.disconnect()
    where = options.save or options.connect or "the viewer"
    maps = f", {log.segments} maps of segments" if log.segments else ""
    what = f"{log.pictures} pictures, {log.captions} captions{maps}"
    print(f"ureca rerun: {what} to {where}", file=sys.stderr)
    return 0


def _open(options: argparse.Namespace) -> Any:  # a RecordingStream; Rerun is optional
    recording = require("rerun", extra=EXTRA).RecordingStream("ureca")
    if options.save:
        path = Path(options.save)
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigError(f"cannot log to {path}: {error.strerror}") from error
        recording.save(path)
    elif options.connect:
        recording.connect_grpc(options.connect)
    else:
        recording.spawn()
    return recording


async def _run(options: argparse.Namespace, log: RerunLog) -> None:
    task = asyncio.current_task()
    assert task is not None  # we are in one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    keys = keys_of(options)
    async with AsyncClient.connect(options.events, options.requests, keys=keys) as client:
        follower = NodeFollower(
            client,
            on_sight=log.sight,
            on_event=log.event,
            streams=options.stream or None,
            max_width_px=options.width,
        )
        await asyncio.wait_for(follower.run(), options.duration)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca rerun",
        description="Log images, masks, segments, boxes, captions and latencies to Rerun.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--events", default=EVENTS_ADDRESS, help="address of the node's events [%(default)s]"
    )
    parser.add_argument(
        "--requests", default=REQUESTS_ADDRESS, help="address of the node's requests [%(default)s]"
    )
    add_key_options(parser)
    parser.add_argument(
        "--stream", action="append", default=[], help="only this stream; repeatable [all]"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--save", metavar="RUN.rrd", help="log to a file")
    where.add_argument("--connect", metavar="URL", help="log to a viewer that is already running")
    parser.add_argument(
        "--width", type=_width, default=640, metavar="PX", help="width of images, px [%(default)s]"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    return parser


def _width(text: str) -> int:
    if not text.isdigit() or not 64 <= int(text) <= 1920:
        raise argparse.ArgumentTypeError(f"expected 64 to 1920 pixels, got {text}")
    return int(text)
