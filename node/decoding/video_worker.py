"""The process that decodes one video, so that a crash of a codec does not end the node.

    python -m ureca.node.decoding.video_worker   (started by `ureca.node.decoding.video_process`)

The order comes over stdin, then one byte for each picture that the node has room for. Pixels go
through shared memory, messages over stdout. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import BinaryIO

import av

from ureca.errors import SourceError, WireError
from ureca.node.decoding.video_messages import (
    GO,
    LENGTH,
    MAX_SLOT_BYTES,
    WANTED,
    OpenVideo,
    VideoEnd,
    VideoMessage,
    VideoPicture,
    pack_message,
    unpack_order,
)
from ureca.node.decoding.video_reader import ReadPicture, VideoReader
from ureca.protocol.shared_memory import RingWriter

_MAX_DATA_BYTES = 4 << 30


def main() -> int:
    """Decode until the video or stdin ends."""
    av.logging.set_level(av.logging.PANIC)  # the reader's errors say it, once and in plain words
    for what, most in (
        (resource.RLIMIT_DATA, _MAX_DATA_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 2 * WANTED * MAX_SLOT_BYTES),
    ):
        resource.setrlimit(what, (most, most))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    (length,) = LENGTH.unpack(stdin.read(LENGTH.size))
    order = unpack_order(stdin.read(length))
    with contextlib.suppress(BrokenPipeError):
        _serve(order, stdin, stdout)
    return 0


def _serve(order: OpenVideo, stdin: BinaryIO, stdout: BinaryIO) -> None:
    try:
        reader = VideoReader(order)
    except SourceError as error:
        _say(stdout, VideoEnd(failed=str(error)))
        return
    _say(stdout, reader.opened)
    ring = _PixelRing()
    try:
        for picture in reader.pictures():
            if stdin.read(1) != GO:
                return
            _say(stdout, ring.message(picture, reader.packets))
        _say(stdout, VideoEnd(shortfall=reader.shortfall))
    except SourceError as error:
        _say(stdout, VideoEnd(failed=str(error)))
    finally:
        while stdin.read(1):  # the last pictures are still being read
            pass
        ring.close()
        reader.close()


class _PixelRing:
    """The ring of this process; a larger one is made when pictures grow."""

    def __init__(self) -> None:
        self._writers: list[tuple[RingWriter, int]] = []

    def message(self, picture: ReadPicture, packets: int) -> VideoPicture:
        """The message of a picture whose pixels are in the ring."""
        image = picture.image
        if isinstance(image, SourceError):
            return VideoPicture(at_ns=picture.at_ns, packets=packets, error=str(image))
        try:
            pixels = self._fitting(image.nbytes).write(image)
        except WireError as error:
            return VideoPicture(at_ns=picture.at_ns, packets=packets, error=str(error))
        height, width = image.shape[:2]
        return VideoPicture(
            at_ns=picture.at_ns, packets=packets, height=height, width=width, pixels=pixels
        )

    def _fitting(self, size: int) -> RingWriter:
        if not self._writers or self._writers[-1][1] < size:
            self._writers.append((RingWriter(slots=WANTED, max_bytes=MAX_SLOT_BYTES), size))
        while len(self._writers) > WANTED + 1:  # so many of the last pictures may not be read yet
            self._writers.pop(0)[0].close()
        return self._writers[-1][0]

    def close(self) -> None:
        """Delete the rings."""
        while self._writers:
            self._writers.pop()[0].close()


def _say(out: BinaryIO, message: VideoMessage) -> None:
    out.write(pack_message(message))
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
