"""The process that decodes untrusted images, so that a codec crash does not end the node.

    python -m ureca.node.decoding.decoder_worker IN_FD OUT_FD MAX_PX   (started by
    `ureca.node.decoding.decoder_process`)

Bytes come in one piece of shared memory and pixels leave in another; over stdin and stdout go only
numbers. It ends with its parent, opens no file, and has limited memory.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
from typing import BinaryIO

import numpy as np

from ureca.errors import SourceError
from ureca.node.decoding.decoder_process import ANSWER, ASK, MAX_TEXT_BYTES
from ureca.node.decoding.image_decoder import decode_picture

_SPARE_BYTES = 512 << 20
_HANGING_S = 30
"""After this long in one image the process ends itself, in case its parent is gone."""


def main(argv: list[str]) -> int:
    """Decode until stdin ends."""
    taken, given = (mmap.mmap(int(fd), 0) for fd in argv[:2])
    _limit(len(taken) + 6 * len(given) + _SPARE_BYTES)
    _silence_codecs()
    _answer(sys.stdout.buffer, 0, 0, b"")  # ready
    while len(ask := sys.stdin.buffer.read(ASK.size)) == ASK.size:
        signal.alarm(_HANGING_S)
        _decode(taken, given, *ASK.unpack(ask))
        signal.alarm(0)
    return 0


def _silence_codecs() -> None:
    """What codecs write to stderr about each bad picture is in the answer, where it is counted."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit(data_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_DATA, data_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _decode(taken: mmap.mmap, given: mmap.mmap, length: int, max_px: int) -> None:
    try:
        image = decode_picture(taken[:length], max_px=max_px)
    except (SourceError, MemoryError) as error:
        text = str(error) or "the picture needs more memory than the decoder may have"
        _answer(sys.stdout.buffer, 0, 0, text.encode("utf-8")[:MAX_TEXT_BYTES])
        return
    height, width = image.shape[:2]
    np.frombuffer(given, np.uint8)[: image.size] = image.reshape(-1)
    _answer(sys.stdout.buffer, height, width, b"")


def _answer(out: BinaryIO, height: int, width: int, text: bytes) -> None:
    out.write(ANSWER.pack(height, width, len(text)) + text)
    out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
