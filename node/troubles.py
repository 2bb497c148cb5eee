"""Why captions are not what they should be, in words for `health`."""

from __future__ import annotations

from collections.abc import Iterable

from ureca.node.stream import Stream


def troubles(streams: Iterable[tuple[str, Stream]], *, hangs: bool) -> list[str]:
    """What is wrong with the streams and, when it `hangs`, with the captioner."""
    found = [_frozen(name, stream) for name, stream in streams if stream.is_frozen]
    if hangs:
        found.append("the captioner does not return from a batch that was given up")
    return found


def _frozen(name: str, stream: Stream) -> str:
    seconds = stream.facts()["unchanged_ms"] / 1e3
    return (
        f"{name}: the picture has been the same to the last bit for {seconds:.0f} s, nothing is "
        "renewed from it; is the camera frozen? (source.frozen_s)"
    )
