"""Answers requests. Every request gets exactly one terminal reply; a traceback never leaves the
process.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from ureca.client.sockets import is_local
from ureca.clock import Clock
from ureca.datatypes import Frame, Image
from ureca.errors import RequestError, SourceError, UrecaError, WireError
from ureca.node.access import MayAsk, anybody
from ureca.node.config import NodeConfig
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.monitoring.health import NodeStatus
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.requests.queries import Answers
from ureca.node.requests.replies import Answer, Asker, Plain, plain, relay
from ureca.protocol.image_header import picture_size
from ureca.protocol.messagepack import convert
from ureca.protocol.operations import OPERATIONS
from ureca.protocol.preview import PictureArgs
from ureca.protocol.request_codec import decode_request, salvage_request_id
from ureca.protocol.requests import DescribeArgs, PictureSpec, RecordArgs
from ureca.protocol.results import RecordStartResult, ShutdownResult, TimeResult

_DECODE_S = 1.0
"""How long the sockets' thread waits for the picture of a `describe` before it gives it up."""
_log = logging.getLogger(__name__)


class Recordings(Protocol):
    """Recordings that clients begin and end while the node runs."""

    def begin(self, name: str) -> Plain:
        """Begin the recording `name`; returns the result of `record.start`."""

    def end(self, reply: Callable[[Plain], None]) -> None:
        """End the recording under way; `reply` gets the result when its file is whole."""


class Desk(NodeStatus, Protocol):
    """The node's functions for the request handler; called on the thread that owns the sockets."""

    def ask(self, ask: Ask) -> None:
        """Queue a direct request; raises `RequestError`."""

    def order(self, order: Order) -> None:
        """Queue a request that changes regions; raises `RequestError`."""

    def picture(self, args: PictureArgs, asker: Asker, deadline_ns: int) -> None:
        """Answer with a stream's next picture; raises `RequestError`."""

    @property
    def recordings(self) -> Recordings | None:
        """The folder for recordings of clients; None if they may not record."""

    def stop(self) -> None:
        """Begin an orderly end."""


@dataclass(frozen=True, slots=True)
class OperationCall:
    """A request whose arguments have been checked."""

    args: Any  # the `args` type of its operation
    asker: Asker
    received_ns: int
    deadline_ns: int
    picture: bytes | None


class Control:
    """Turns request messages into replies; `answer` may be called later and from other threads."""

    def __init__(
        self, config: NodeConfig, facts: Desk, *, session_id: bytes, clock: Clock, answer: Answer
    ) -> None:
        self._config = config
        self._facts = facts
        self._session_id = session_id
        self._clock = clock
        self._answer = answer
        self._decode = Decoder(
            config, is_local=is_local(config.publish.requests), decode_s=_DECODE_S, patient=False
        )
        self._decode.prepare()
        answers = Answers(config, facts, session_id=session_id, clock=clock, ops=tuple(OPERATIONS))
        self._queries = answers.table
        self._table: dict[str, Callable[[OperationCall], Struct | None]] = {
            "time": self._time,
            "describe": self._describe,
            "picture": self._picture,
            "record.start": self._start_recording,
            "record.stop": self._stop_recording,
            "shutdown": self._shutdown,
        }

    def handle(self, client: bytes, parts: Sequence[bytes], may: MayAsk = anybody) -> None:
        """Answer one message of `client`. Never raises for anything that a client sends."""
        received_ns = self._clock.now_ns()
        asker = Asker(client, salvage_request_id(parts) or b"\0", self._answer)
        try:
            request, picture = decode_request(parts)
            may(request.op)
            args = convert(request.args, OPERATIONS[request.op].args, request.op)
            deadline_ns = received_ns + request.deadline_ms * 1_000_000
            call = OperationCall(args, asker, received_ns, deadline_ns, picture)
            if (result := self._run(request.op, call)) is not None:
                asker.say("result", plain(result))
        except UrecaError as error:
            asker.fail(error)
        except Exception as error:  # noqa: BLE001  (a fault of ours goes to the log, not to the wire)
            _log.exception("a request failed")
            asker.fail(error)

    def close(self) -> None:
        """End the process that decoded pictures, if there was one."""
        self._decode.close()

    # --- operations ------------------------------------------------------------------------------

    def _run(self, op: str, call: OperationCall) -> Struct | None:
        """The result; None when the asker is answered later."""
        if op in self._queries:
            return self._queries[op](call.args)
        run = self._order if OPERATIONS[op].runs_on == "step" else self._table[op]
        return run(call)

    def _order(self, call: OperationCall) -> None:
        """Leave it to the step thread, which owns the regions, and answer when it is done."""
        reply = partial(call.asker.say, "result")
        order = Order(call.args, call.asker.client, reply, call.asker.fail, call.deadline_ns)
        self._facts.order(order)

    def _time(self, call: OperationCall) -> TimeResult:
        return TimeResult(
            clk=self._clock.name, recv_ns=call.received_ns, send_ns=self._clock.now_ns()
        )

    def _shutdown(self, _: OperationCall) -> ShutdownResult:
        self._facts.stop()
        return ShutdownResult(state="draining")

    def _picture(self, call: OperationCall) -> None:
        self._facts.picture(call.args, call.asker, call.deadline_ns)

    def _start_recording(self, call: OperationCall) -> RecordStartResult:
        args: RecordArgs = call.args
        return RecordStartResult(**self._recordings().begin(args.name))

    def _stop_recording(self, call: OperationCall) -> None:
        self._recordings().end(partial(call.asker.say, "result"))

    def _recordings(self) -> Recordings:
        if self._facts.recordings is None:
            raise RequestError(
                "this node has no folder for recordings; start it with --record-dir DIR",
                code="FORBIDDEN",
            )
        return self._facts.recordings

    def _describe(self, call: OperationCall) -> None:
        args: DescribeArgs = call.args
        now_ns = self._clock.now_ns()
        frame = None
        if args.picture is not None:
            limit = self._config.limits.max_image_px
            image = _attached(args.picture, call.picture, limit, self._decode)
            frame = Frame("describe", uuid.uuid4().bytes, 0, now_ns, image, received_ns=now_ns)
        seed = None
        if args.region is not None:
            size = (frame.width, frame.height) if frame else self._size_of(args.stream)
            seed = args.region.seed(*size)
        self._facts.ask(
            Ask(
                reply=lambda event: relay(event, call.asker),
                fail=call.asker.fail,
                deadline_ns=call.deadline_ns,
                stream=args.stream,
                frame=frame,
                rid=args.rid,
                seed=seed,
                style=args.style,
                max_new_tokens=args.max_new_tokens,
                key=(call.asker.client, call.asker.request_id),
            )
        )
        call.asker.say("accepted")

    def _size_of(self, stream: str | None) -> tuple[int, int]:
        streams = self._facts.heartbeat().streams
        if stream not in streams:
            raise RequestError(
                f"no stream {stream!r}; there are {sorted(streams) or 'none yet'}", code="NO_STREAM"
            )
        return int(streams[stream]["width"]), int(streams[stream]["height"])


def _attached(spec: PictureSpec, data: bytes | None, max_px: int, decode: Decoder) -> Image:
    if spec.w * spec.h > max_px:
        raise WireError(
            f"expected at most {max_px} pixels, got {spec.w}x{spec.h}", code="TOO_LARGE"
        )
    if data is None:
        raise WireError("'picture' describes a second message part, but there is none")
    if spec.enc == "rgb8":
        if len(data) != spec.w * spec.h * 3:
            raise WireError(f"expected {spec.w * spec.h * 3} bytes of rgb8, got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(spec.h, spec.w, 3)
    if picture_size(data, spec.enc) != (spec.w, spec.h):
        raise WireError(f"the {spec.enc} is not {spec.w}x{spec.h}")
    try:
        return decode(data, max_px=max_px)
    except SourceError as error:
        raise WireError(f"the picture cannot be decoded: {error}") from error
