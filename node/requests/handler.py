"""Runs the operations that clients request. Every request gets exactly one terminal reply; replies
never contain a traceback.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from ureca.clock import Clock
from ureca.datatypes import Frame, Image, JsonObject
from ureca.errors import RequestError, UrecaError, WireError
from ureca.log import RateLimitedLog
from ureca.node.access import MayAsk, anybody
from ureca.node.captioning.engine_loader import NO_ATTRIBUTES
from ureca.node.config import NodeConfig
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.monitoring.health import NodeStatus
from ureca.node.pipeline.step import DescribeRequest, FindRequest, RegionCommand, StepRequest
from ureca.node.requests.attached_pictures import (
    AttachedPicture,
    Buffer,
    PictureQueue,
    check_attached,
)
from ureca.node.requests.preview_encoder import Previews
from ureca.node.requests.queries import Answers
from ureca.node.requests.replies import ReplyChannel, SendReply, plain, relay
from ureca.protocol.messagepack import convert
from ureca.protocol.operations import OPERATIONS
from ureca.protocol.request_codec import decode_request, salvage_request_id
from ureca.protocol.requests import DescribeArgs, RecordArgs
from ureca.protocol.results import (
    CancelResult,
    FindResult,
    RecordStartResult,
    ShutdownResult,
    TimeResult,
)


class Recordings(Protocol):
    """Recordings that clients begin and end while the node runs."""

    def begin(self, name: str) -> JsonObject:
        """Begin the recording `name`; returns the result of `record.start`."""

    def end(self, reply: Callable[[JsonObject], None]) -> None:
        """End the recording under way; `reply` gets the result when its file is whole."""


class Desk(NodeStatus, Protocol):
    """The node's functions for the request handler; called on the thread that owns the sockets."""

    @property
    def recordings(self) -> Recordings | None:
        """The folder for recordings of clients; None if they may not record."""

    def stop(self) -> None:
        """Begin an orderly end."""


@dataclass(frozen=True, slots=True)
class OperationCall:
    """A request whose arguments have been checked."""

    args: Any  # the `args` type of its operation
    channel: ReplyChannel
    received_ns: int
    deadline_ns: int
    picture: Buffer | None


class Control:
    """Turns request messages into replies; `answer` may be called later and from other threads.

    `submit` queues a request for the next step, and raises `RequestError`.
    """

    def __init__(
        self,
        config: NodeConfig,
        facts: Desk,
        *,
        submit: Callable[[StepRequest], None],
        previews: Previews,
        session_id: bytes,
        clock: Clock,
        answer: SendReply,
    ) -> None:
        self._config = config
        self._facts = facts
        self._submit = submit
        self._previews = previews
        self._session_id = session_id
        self._clock = clock
        self._answer = answer
        self._decode = Decoder(config)
        self._decode.prepare(wait=False)
        self._pictures = PictureQueue(
            self._decode, clock, limit=config.limits.max_asks, max_px=config.limits.max_image_px
        )
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        answers = Answers(config, facts, session_id=session_id, clock=clock, ops=tuple(OPERATIONS))
        self._queries = answers.table
        self._find_words = answers.find_words
        self._table: dict[str, Callable[[OperationCall], Struct | None]] = {
            "time": self._time,
            "cancel": self._cancel,
            "describe": self._describe,
            "find": self._find,
            "picture": self._picture,
            "record.start": self._start_recording,
            "record.stop": self._stop_recording,
            "shutdown": self._shutdown,
        }

    def handle(self, client: bytes, parts: Sequence[Buffer], may: MayAsk = anybody) -> bool:
        """Answer one message of `client`: the header as bytes, perhaps a picture. Never raises for
        anything that a client sends; whether the request was taken.
        """
        received_ns = self._clock.now_ns()
        request_id = b""
        try:
            request, picture = decode_request(parts)
            request_id = request.id
            may(request.op)
            if picture is not None and request.op != "describe":
                raise WireError(f"{request.op!r} takes no picture")  # noqa: TRY301  (answered below)
            channel = ReplyChannel(client, request_id, self._answer)
            args = convert(request.args, OPERATIONS[request.op].args, request.op)
            deadline_ns = received_ns + request.deadline_ms * 1_000_000
            call = OperationCall(args, channel, received_ns, deadline_ns, picture)
            if (result := self._run(request.op, call)) is not None:
                channel.reply("result", plain(result))
        except Exception as error:  # noqa: BLE001  (a fault of ours goes to the log, not to the wire)
            if not isinstance(error, UrecaError):
                self._log.warning(repr(type(error)), "a request failed", error=error)
            request_id = request_id or salvage_request_id(parts) or b"\0"
            ReplyChannel(client, request_id, self._answer).fail(error)
            return False
        return True

    def close(self) -> None:
        """Answer who waits for a picture, and end the process that decoded them."""
        self._pictures.close()
        self._decode.close()

    # --- operations ------------------------------------------------------------------------------

    def _run(self, op: str, call: OperationCall) -> Struct | None:
        """The result; None when the asker is answered later."""
        if op in self._queries:
            return self._queries[op](call.args)
        runs_here = op in self._table or OPERATIONS[op].runs_on != "step"
        return (self._table[op] if runs_here else self._command)(call)

    def _cancel(self, call: OperationCall) -> CancelResult | None:
        """Give up a picture that was not decoded yet; the rest is known to the step thread."""
        if self._pictures.cancel((call.channel.client, call.args.id)):
            return CancelResult(cancelled=True)
        self._command(call)
        return None

    def _command(self, call: OperationCall) -> None:
        """Leave it to the step thread, which owns the regions, and answer when it is done."""
        channel = call.channel
        reply = partial(channel.reply, "result")
        self._submit(
            RegionCommand(
                call.args,
                channel.client,
                reply,
                channel.fail,
                call.deadline_ns,
                channel.request_id,
            )
        )

    def _find(self, call: OperationCall) -> FindResult | None:
        if self._facts.find_by != "likelihood":
            return self._find_words(call.args)
        channel = call.channel
        reply, key = partial(channel.reply, "result"), (channel.client, channel.request_id)
        self._submit(FindRequest(call.args, reply, channel.fail, call.deadline_ns, key))
        channel.reply("accepted")
        return None

    def _time(self, call: OperationCall) -> TimeResult:
        return TimeResult(
            clk=self._clock.name, recv_ns=call.received_ns, send_ns=self._clock.now_ns()
        )

    def _shutdown(self, _: OperationCall) -> ShutdownResult:
        self._facts.stop()
        return ShutdownResult(state="draining")

    def _picture(self, call: OperationCall) -> None:
        self._previews.request(call.args, call.channel, call.deadline_ns)

    def _start_recording(self, call: OperationCall) -> RecordStartResult:
        args: RecordArgs = call.args
        return RecordStartResult(**self._recordings().begin(args.name))

    def _stop_recording(self, call: OperationCall) -> None:
        self._recordings().end(partial(call.channel.reply, "result"))

    def _recordings(self) -> Recordings:
        if self._facts.recordings is None:
            raise RequestError(
                "this node has no folder for recordings; start it with --record-dir DIR",
                code="FORBIDDEN",
            )
        return self._facts.recordings

    def _describe(self, call: OperationCall) -> None:
        args: DescribeArgs = call.args
        if (args.attributes or args.style == "dense") and not self._facts.attributes:
            text = NO_ATTRIBUTES.format(bundle=self._facts.info.model)
            raise RequestError(text, code="NO_MODEL")
        if args.picture is None:
            self._submit_describe(call, None)
            return
        check_attached(args.picture, call.picture, self._config.limits.max_image_px)
        assert call.picture is not None
        self._pictures.put(
            AttachedPicture(
                args.picture,
                call.picture,
                call.deadline_ns,
                (call.channel.client, call.channel.request_id),
                partial(self._submit_describe, call),
                call.channel.fail,
            )
        )

    def _submit_describe(self, call: OperationCall, image: Image | None) -> None:
        """`image`: the client's own, decoded. Raises `UrecaError`."""
        args, now_ns, frame = call.args, self._clock.now_ns(), None
        if image is not None:
            frame = Frame("describe", uuid.uuid4().bytes, 0, now_ns, image, received_ns=now_ns)
        seed = None
        if args.region is not None:
            size = (frame.width, frame.height) if frame else self._size_of(args.stream)
            seed = args.region.seed(*size)
        self._submit(
            DescribeRequest(
                send=lambda event: relay(event, call.channel),
                fail=call.channel.fail,
                deadline_ns=call.deadline_ns,
                stream=args.stream,
                frame=frame,
                rid=args.rid,
                seed=seed,
                style=args.style,
                max_new_tokens=args.max_new_tokens,
                attributes=args.attributes,
                key=(call.channel.client, call.channel.request_id),
            )
        )
        call.channel.reply("accepted")

    def _size_of(self, stream: str | None) -> tuple[int, int]:
        streams = self._facts.heartbeat().streams
        if stream not in streams:
            raise RequestError(
                f"no stream {stream!r}; there are {sorted(streams) or 'none yet'}", code="NO_STREAM"
            )
        return int(streams[stream]["width"]), int(streams[stream]["height"])
