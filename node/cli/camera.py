"""`ureca camera`: the sending side. Opens the sources of `ureca run --source` and sends their
frames.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2

from ureca.client.frame_publisher import FrameDealer, FramePublisher, FrameSender
from ureca.clock import MonotonicClock
from ureca.datatypes import Image
from ureca.errors import ConfigError, SourceError
from ureca.log import configure
from ureca.node.cli.signals import ending_signals
from ureca.node.config import LimitsConfig, NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import FrameSource, ReconnectingSource
from ureca.node.sources.factory import open_source
from ureca.security.keys import ServerKeys, add_key_options, keys_of

DEFAULT_ADDRESS = "tcp://127.0.0.1:5600"
_TTY_S, _LOG_S = 0.2, 5.0
_EXAMPLES = """examples:
  ureca camera 'v4l2:///dev/video0?width=1280&height=720&fps=30'
  ureca run --source zmq+tcp://127.0.0.1:5600

  ureca camera rtsp://192.168.1.9/stream1 --to tcp://127.0.0.1:5603 --jpeg 80
  ureca run --source credit+tcp://127.0.0.1:5603

  ureca camera clip.mp4 --loop --shm --bind ipc:///tmp/ureca-cam0
  ureca run --source zmq+ipc:///tmp/ureca-cam0

docs/sources.md explains the forms of URI, the stamps, and keys for other hosts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Send until the source ends or a signal comes; returns 0."""
    options = _parser().parse_args(argv)
    configure("warning" if options.quiet else "info")
    config, clock, counters = _configured(options), MonotonicClock(), NodeCounters()
    stop = threading.Event()
    source = open_source(config, clock=clock, counters=counters, wait=stop.wait)
    with contextlib.closing(_sender(options)) as sender, _signals(stop):
        progress = Progress(counters, sender, source, is_quiet=options.quiet)
        with _ended_after(options.duration, stop):
            send_all(source, sender, counters=counters, config=config, tell=progress)
        progress.end()
    return 0


def send_all(
    source: FrameSource,
    sender: FrameSender,
    *,
    counters: NodeCounters,
    config: NodeConfig,
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Send the frames of `source`. A sent frame counts as processed, one without a credit as
    `busy`.
    """
    pace = FrameRateLimit(config.source.fps)
    for frame in source.frames():
        if pace.is_early(frame.captured_ns) or not sender.send_frame(frame):
            counters.frame_dropped("busy")
        else:
            counters.frame_processed()
        tell()


@dataclass
class FrameRateLimit:
    """At most `fps` pictures a second of a live source, by their stamps; 0 lets all through."""

    fps: float
    _due_ns: float = 0.0

    def is_early(self, captured_ns: int) -> bool:
        """Whether this image is earlier than the next one is due."""
        if not self.fps:
            return False
        step_ns = 1e9 / self.fps
        if captured_ns < self._due_ns - step_ns / 10:
            return True
        self._due_ns = max(self._due_ns, captured_ns - step_ns) + step_ns
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca camera",
        description="Send frames of a camera, stream, clip or folder to a node.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("uri", metavar="URI", help="a source as in ureca run --source")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bind", metavar="ADDRESS", help=f"publish here; nodes connect [{DEFAULT_ADDRESS}]"
    )
    where.add_argument(
        "--to",
        metavar="ADDRESS",
        help="connect to a node (credit+…); send only when the node requests a frame",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--jpeg", type=int, metavar="QUALITY", help="1 to 100 [90]")
    how.add_argument("--raw", action="store_true", help="RGB as it is")
    how.add_argument(
        "--shm",
        action="store_true",
        help="send RGB in shared memory; the node must be on this host",
    )
    parser.add_argument("--stream", default="cam0", metavar="ID", help="name of the stream [cam0]")
    parser.add_argument(
        "--fps", type=float, default=0.0, help="frame rate of a folder; highest rate of a camera"
    )
    parser.add_argument("--loop", action="store_true", help="repeat the clip")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--allow", metavar="FILE", help="with --bind and --key: who may subscribe")
    add_key_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only warnings")
    return parser


def _configured(options: argparse.Namespace) -> NodeConfig:
    source = SourceConfig(
        uri=options.uri, stream=options.stream, fps=options.fps, loop=options.loop
    )
    if options.uri.startswith(("zmq+", "credit+")):
        raise SourceError(f"{options.uri} has frames already: give it to ureca run --source")
    if options.jpeg is not None and not 1 <= options.jpeg <= 100:
        raise ConfigError(f"--jpeg is 1 to 100, got {options.jpeg}")
    return replace(NodeConfig(), source=source, limits=LimitsConfig(max_streams=1))


def _sender(options: argparse.Namespace) -> FrameSender:
    common = {
        "stream": options.stream,
        "encoder": None if options.raw or options.shm else jpeg_encoder(options.jpeg or 90),
        "shm": options.shm,
    }
    if options.to:
        return FrameDealer(options.to, keys=keys_of(options), **common)
    if bool(options.key) != bool(options.allow) or options.server_key:
        raise ConfigError("--bind takes --key and --allow, --to takes --key and --server-key")
    keys = ServerKeys.read(options.key, options.allow) if options.key else None
    return FramePublisher(options.bind or DEFAULT_ADDRESS, keys=keys, **common)


def jpeg_encoder(quality: int) -> Callable[[Image], bytes]:
    """RGB u8 [H, W, 3] to JPEG of `quality` 1 to 100."""

    def encode(image: Image) -> bytes:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])

    return encode


class Progress:
    """One progress line: updated in place in a terminal, printed at intervals elsewhere."""

    def __init__(
        self, counters: NodeCounters, sender: FrameSender, source: FrameSource, *, is_quiet: bool
    ) -> None:
        self._counters, self._sender, self._is_quiet = counters, sender, is_quiet
        self._source = source if isinstance(source, ReconnectingSource) else None
        self._is_terminal = sys.stderr.isatty()
        self._started_s = self._shown_s = time.monotonic()

    def __call__(self) -> None:
        """Show the line if it is time."""
        now_s = time.monotonic()
        if now_s - self._shown_s >= (_TTY_S if self._is_terminal else _LOG_S):
            self._shown_s = now_s
            self._show(end="\r" if self._is_terminal else "\n")

    def end(self) -> None:
        """Show it a last time."""
        self._show(end="\n")

    def text(self) -> str:
        """What was sent, at which rate, and what was not."""
        balance = self._counters.balance()
        rate = balance.frames_processed / max(1e-9, time.monotonic() - self._started_s)
        lost = ", ".join(f"{n} {why}" for why, n in sorted(balance.frames_dropped.items()))
        sent = f"{balance.frames_processed} of {balance.frames_in} frames"
        why = "; ".join(self._source.reasons()) if self._source is not None else ""
        return f"sent {sent}, {rate:.1f}/s, left out: {lost or 'none'}{'; ' if why else ''}{why}"

    def _show(self, end: str) -> None:
        if not self._is_quiet:
            clear = "\x1b[K" if self._is_terminal else ""
            sys.stderr.write(f"{self.text()}{clear}{end}")
            sys.stderr.flush()


@contextlib.contextmanager
def _ended_after(seconds: float | None, stop: threading.Event) -> Iterator[None]:
    timer = threading.Timer(seconds or 0.0, stop.set)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the sending; a second one the process."""

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handle) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
