"""Opens the sources that a configuration names.

A source counts each frame (`NodeCounters.frame_in`) and each one that it cannot deliver; the caller
counts yielded frames.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ureca.clock import Clock
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import FrameSource, Wait
from ureca.node.sources.camera import LiveSource
from ureca.node.sources.camera_capture import DEVICE
from ureca.node.sources.credit_receiver import SCHEME as CREDIT_SCHEME
from ureca.node.sources.credit_receiver import CreditFrames
from ureca.node.sources.source_uri import NETWORK, Address, addresses_of, hide_secrets
from ureca.node.sources.video_player import ClipPlayer
from ureca.node.sources.video_readers import open_clip
from ureca.node.sources.zmq_subscriber import SCHEME as ZMQ_SCHEME
from ureca.node.sources.zmq_subscriber import ZmqFrames

LIVE_SCHEMES = NETWORK | {DEVICE}


def open_sources(
    config: NodeConfig, *, clock: Clock, books: NodeCounters, wait: Wait
) -> tuple[FrameSource, ...]:
    """The sources that `config.source` names, in that order. Raises `SourceError` with the remedy
    if one cannot be opened; a camera may be absent and come later.
    """
    addresses = addresses_of(config.source)
    if len(addresses) > config.limits.max_streams:
        raise SourceError(
            f"{len(addresses)} sources, and limits.max_streams is {config.limits.max_streams}: "
            f"raise it with --set limits.max_streams={len(addresses)}"
        )
    return tuple(_open(address, config, clock, books, wait) for address in addresses)


def open_source(
    config: NodeConfig, *, clock: Clock, books: NodeCounters, wait: Wait
) -> FrameSource:
    """The first source that `config.source` names; see `open_sources`."""
    return open_sources(config, clock=clock, books=books, wait=wait)[0]


def _open(
    address: Address, config: NodeConfig, clock: Clock, books: NodeCounters, wait: Wait
) -> FrameSource:
    uri = address.uri
    if not uri:
        raise SourceError(
            "no source: give --source a video file, a folder, a tar, v4l2:///dev/video0, "
            "rtsp://HOST/PATH or zmq+tcp://HOST:PORT"
        )
    if uri.startswith((ZMQ_SCHEME, CREDIT_SCHEME)):
        make = ZmqFrames if uri.startswith(ZMQ_SCHEME) else CreditFrames
        return make(uri, config, clock=clock, books=books, wait=wait)
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme in LIVE_SCHEMES:
        return LiveSource(address, config, clock=clock, books=books, wait=wait)
    if scheme != "file":
        raise SourceError(f"unknown source {hide_secrets(uri)}: docs/sources.md has every form")
    path = Path(uri.removeprefix("file://"))
    clip = open_clip(path, fps=config.source.fps, max_px=config.limits.max_image_px)
    own = replace(config, source=replace(config.source, stream=address.stream))
    return ClipPlayer(clip, own, clock=clock, books=books, wait=wait)
