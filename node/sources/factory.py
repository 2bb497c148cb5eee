"""Opens the sources that a configuration names.

A source counts each frame (`NodeCounters.frame_in`) and each one that it cannot deliver; the caller
counts yielded frames.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ureca.clock import Clock
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import FrameSource, Wait
from ureca.node.sources.camera import LiveSource
from ureca.node.sources.camera_capture import LOCAL
from ureca.node.sources.credit_receiver import SCHEME as CREDIT_SCHEME
from ureca.node.sources.credit_receiver import CreditFrames
from ureca.node.sources.recordings import open_recording, recording_of, stream_of
from ureca.node.sources.source_uri import NETWORK, Address, addresses_of, hide_secrets, path_of
from ureca.node.sources.stream_owners import StreamOwners
from ureca.node.sources.video_player import ClipPlayer
from ureca.node.sources.video_readers import ClipReader, open_clip
from ureca.node.sources.zmq_subscriber import SCHEME as ZMQ_SCHEME
from ureca.node.sources.zmq_subscriber import ZmqFrames

_LINKS = (ZMQ_SCHEME, CREDIT_SCHEME)
_log = logging.getLogger(__name__)
LIVE_SCHEMES = NETWORK | LOCAL


def open_sources(
    config: NodeConfig, *, clock: Clock, counters: NodeCounters, wait: Wait
) -> tuple[FrameSource, ...]:
    """The sources that `config.source` names, in that order. Raises `SourceError` with the remedy
    if one cannot be opened; a camera may be absent and come later.
    """
    max_px = config.limits.max_image_px
    recorded = [_topics_of(address, max_px) for address in addresses_of(config.source)]
    clips = {one.stream: clip for topics in recorded for one, clip in topics}
    addresses = [one for topics in recorded for one, _ in topics]
    if len(clips) < len(addresses):
        raise SourceError("two sources have the same stream: name them, --source front=URI")
    if len(addresses) > config.limits.max_streams:
        raise SourceError(
            f"{len(addresses)} sources, and limits.max_streams is {config.limits.max_streams}: "
            f"raise it with --set limits.max_streams={len(addresses)}"
        )
    owners = StreamOwners(
        clock,
        max_streams=config.limits.max_streams,
        reserved=[one.stream for one in addresses if not one.uri.startswith(_LINKS)],
    )
    sources: list[FrameSource] = []
    for address in addresses:
        clip = clips[address.stream]
        if clip is None:
            opened = _open(
                address, config, clock=clock, counters=counters, wait=wait, owners=owners
            )
        else:
            own = replace(config, source=replace(config.source, stream=address.stream))
            opened = ClipPlayer(clip, own, clock=clock, counters=counters, wait=wait)
        sources.append(opened)
    return tuple(sources)


def _topics_of(address: Address, max_px: int) -> list[tuple[Address, ClipReader | None]]:
    """The streams of an address: each topic of images of a recording, else the address itself."""
    uri = address.uri
    is_file = bool(uri) and ("://" not in uri or uri.startswith("file://"))
    recording = recording_of(path_of(uri)) if is_file and not uri.startswith(_LINKS) else None
    if recording is None:
        return [(address, None)]
    clips = open_recording(recording, max_px=max_px)
    if len(clips) == 1:
        return [(address, clips[0])]
    prefix = f"{address.stream}_" if address.is_named else ""
    names = [f"{prefix}{stream_of(clip.topic)}"[:64] for clip in clips]
    _log.info(
        "%s: %s",
        uri,
        ", ".join(
            f"{clip.topic} is the stream {name}" for clip, name in zip(clips, names, strict=True)
        ),
    )
    return [(replace(address, stream=name), clip) for name, clip in zip(names, clips, strict=True)]


def open_source(
    config: NodeConfig, *, clock: Clock, counters: NodeCounters, wait: Wait
) -> FrameSource:
    """The first source that `config.source` names; see `open_sources`."""
    return open_sources(config, clock=clock, counters=counters, wait=wait)[0]


def _open(
    address: Address,
    config: NodeConfig,
    *,
    clock: Clock,
    counters: NodeCounters,
    wait: Wait,
    owners: StreamOwners,
) -> FrameSource:
    uri = address.uri
    if not uri:
        raise SourceError(
            "no source: give --source a video file, a folder, a tar, v4l2:///dev/video0, "
            "rtsp://HOST/PATH or zmq+tcp://HOST:PORT"
        )
    if uri.startswith(_LINKS):
        make = ZmqFrames if uri.startswith(ZMQ_SCHEME) else CreditFrames
        return make(uri, config, clock=clock, counters=counters, wait=wait, owners=owners)
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme in LIVE_SCHEMES:
        return LiveSource(address, config, clock=clock, counters=counters, wait=wait)
    if scheme != "file":
        raise SourceError(f"unknown source {hide_secrets(uri)}: docs/sources.md has every form")
    if path_of(uri).suffix.lower() == ".sdp":
        session = replace(address, uri=f"file://{path_of(uri)}")
        return LiveSource(session, config, clock=clock, counters=counters, wait=wait)
    clip = open_clip(path_of(uri), fps=config.source.fps, max_px=config.limits.max_image_px)
    own = replace(config, source=replace(config.source, stream=address.stream))
    return ClipPlayer(clip, own, clock=clock, counters=counters, wait=wait)
