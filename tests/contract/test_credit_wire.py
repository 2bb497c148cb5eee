"""The bytes of credits and of a frame in shared memory, for cameras in other languages."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ureca.protocol import wire
from ureca.protocol.flow_control import (
    CreditAsk,
    CreditGrant,
    decode_ask,
    decode_grant,
    encode_credit,
)
from ureca.protocol.frames import FrameHeader
from ureca.protocol.shared_memory import SharedPixels
from ureca.testing import SyntheticSource

SESSION_ID = bytes(range(16))
Golden = Callable[[str, bytes], None]


def test_the_bytes_of_an_ask_and_of_a_grant(golden: Golden) -> None:
    ask = CreditAsk(src="cam0", session_id=SESSION_ID, sent=3)
    grant = CreditGrant(session_id=SESSION_ID, upto=5)
    golden("credit-ask", b"".join(encode_credit(ask)))
    golden("credit-grant", b"".join(encode_credit(grant)))
    assert decode_ask(encode_credit(ask)) == ask
    assert decode_grant(encode_credit(grant)) == grant


def test_the_bytes_of_a_frame_in_shared_memory(golden: Golden) -> None:
    frame = SyntheticSource(things=0, width_px=8, height_px=4).frame(0)
    header = FrameHeader.of(frame, "rgb8")
    shared = SharedPixels(name="ureca-ring-1-00ff", slot=7, gen=12)
    header = msgspec.structs.replace(header, shm=shared)
    parts = wire.encode_frame(header, b"", "camera")
    golden("frame-shm", b"".join(parts))
    assert wire.decode_frame_header(parts).shm == shared
