"""Answers requests. Every request gets exactly one terminal reply; a traceback never leaves the
process.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from ureca.client.sockets import is_local
from ureca.clock import Clock
from ureca.datatypes import Frame, Image
from ureca.errors import RequestError, SourceError, UrecaError, WireError
from ureca.node.access import MayAsk, anybody
from ureca.node.config import NodeConfig
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.monitoring.health import Facts
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.requests.queries import QUESTIONS, Answers
from ureca.node.requests.replies import Answer, Asker, Plain, relay
from ureca.protocol.image_header import picture_size
from ureca.protocol.messagepack import convert
from ureca.protocol.preview import PictureArgs
from ureca.protocol.region_requests import ORDERS
from ureca.protocol.requests import (
    DescribeArgs,
    PictureSpec,
    RecordArgs,
    Request,
    decode_request,
    salvage_request_id,
)

RECORDING = ("record.start", "record.stop")
OFFERED = (*QUESTIONS, "time", "describe", "picture", *RECORDING, "shutdown", *ORDERS)
_DECODE_S = 1.0
"""How long the sockets' thread waits for the picture of a `describe` before it gives it up."""
_log = logging.getLogger(__name__)


class Recordings(Protocol):
    """Recordings that clients begin and end while the node runs."""

    def begin(self, name: str) -> Plain:
        """Begin the recording `name`; returns the result of `record.start`."""

    def end(self, reply: Callable[[Plain], None]) -> None:
        """End the recording under way; `reply` gets the result when its file is whole."""


class Desk(Facts, Protocol):
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


class Control:
    """Turns request messages into replies; `answer` may be called later and from other threads."""

    def __init__(
        self, config: NodeConfig, facts: Desk, *, boot: bytes, clock: Clock, answer: Answer
    ) -> None:
        self._config = config
        self._facts = facts
        self._boot = boot
        self._clock = clock
        self._answer = answer
        self._decode = Decoder(
            config, is_local=is_local(config.publish.requests), decode_s=_DECODE_S, patient=False
        )
        self._decode.prepare()
        self._answers = Answers(config, facts, boot=boot, clock=clock, ops=OFFERED)

    def handle(self, client: bytes, parts: Sequence[bytes], may: MayAsk = anybody) -> None:
        """Answer one message of `client`. Never raises for anything that a client sends."""
        received_ns = self._clock.now_ns()
        asker = Asker(client, salvage_request_id(parts) or b"\0", self._answer)
        try:
            request, picture = decode_request(parts)
            may(request.op)
            if request.op == "describe":
                self._describe(request, picture, asker)
            elif request.op == "picture":
                args = convert(request.args, PictureArgs, "picture")
                until_ns = received_ns + request.deadline_ms * 1_000_000
                self._facts.picture(args, asker, until_ns)
            elif request.op in RECORDING:
                self._record(request, asker)
            elif request.op in ORDERS:
                self._order(request, asker)
            elif request.op == "time":
                asker.say("result", {"recv_ns": received_ns, **self._time()})
            else:
                asker.say("result", self._result(request))
        except UrecaError as error:
            asker.fail(error)
        except Exception as error:  # noqa: BLE001  (a fault of ours goes to the log, not to the wire)
            _log.exception("a request failed")
            asker.fail(error)

    def close(self) -> None:
        """End the process that decoded pictures, if there was one."""
        self._decode.close()

    # --- operations ------------------------------------------------------------------------------

    def _result(self, request: Request) -> Plain:
        if request.op == "shutdown":
            self._facts.stop()
            return {"state": "draining"}
        if request.op not in self._answers.table:
            raise WireError(f"{request.op!r} is not offered; this node has {list(OFFERED)}")
        return self._answers.table[request.op](request.args)

    def _time(self) -> Plain:
        return {"clk": self._clock.name, "send_ns": self._clock.now_ns()}

    def _record(self, request: Request, asker: Asker) -> None:
        recordings = self._facts.recordings
        if recordings is None:
            raise RequestError(
                "this node has no folder for recordings; start it with --record-dir DIR",
                code="FORBIDDEN",
            )
        if request.op == "record.start":
            name = convert(request.args, RecordArgs, request.op).name
            asker.say("result", recordings.begin(name))
        else:
            recordings.end(partial(asker.say, "result"))

    def _order(self, request: Request, asker: Asker) -> None:
        """Leave it to the step thread, which owns the regions, and answer when it is done."""
        args = convert(request.args, ORDERS[request.op], request.op)
        deadline_ns = self._clock.now_ns() + request.deadline_ms * 1_000_000
        reply = partial(asker.say, "result")
        self._facts.order(Order(args, asker.client, reply, asker.fail, deadline_ns))

    def _describe(self, request: Request, picture: bytes | None, asker: Asker) -> None:
        args = convert(request.args, DescribeArgs, "describe")
        now_ns = self._clock.now_ns()
        frame = None
        if args.picture is not None:
            image = _attached(args.picture, picture, self._config.limits.max_image_px, self._decode)
            frame = Frame("describe", uuid.uuid4().bytes, 0, now_ns, image, received_ns=now_ns)
        seed = None
        if args.region is not None:
            size = (frame.width, frame.height) if frame else self._size_of(args.stream)
            seed = args.region.seed(*size)
        self._facts.ask(
            Ask(
                reply=lambda event: relay(event, asker),
                fail=asker.fail,
                deadline_ns=now_ns + request.deadline_ms * 1_000_000,
                stream=args.stream,
                frame=frame,
                rid=args.rid,
                seed=seed,
                style=args.style,
                max_new_tokens=args.max_new_tokens,
                key=(asker.client, asker.request_id),
            )
        )
        asker.say("accepted")

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
