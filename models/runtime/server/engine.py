"""A captioner behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp or a cloud.

Requests of a batch run at the same time in an event loop that lives as long as the batch, on the
caller's thread. A request whose rows are all aborted is cancelled at once. A region whose answer
cannot be used never gets words: after all others have ended, `EngineError` says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import never
from ureca.errors import EngineError
from ureca.models.runtime.region_inputs import check_regions
from ureca.models.runtime.server import views
from ureca.models.runtime.server.account import ServerAccount
from ureca.models.runtime.server.answers import AnswerError, parse_captions
from ureca.models.runtime.server.client import (
    ServerClient,
    ServerError,
    ServerReply,
    make_content,
)
from ureca.models.runtime.server.config import ServerEngineConfig, load_server_config
from ureca.models.runtime.server.prompts import make_prompt

RUNTIME = "server"
_POLL_S = 0.02
"""How often `aborted` is asked while nothing comes."""
_CONTEXT_MARGIN = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerFrame:
    """What `ServerEngine.encode` returns: the picture, and its smaller copy for outlines."""

    image: Image
    small: Image
    prep_us: int


def open_server_engine(path: Path) -> ServerEngine:
    """The engine of a YAML file. Nothing is sent yet. Raises `ConfigError`, `MissingExtraError`."""
    engine = ServerEngine(load_server_config(path))
    _log.info("captions come from %s, model %s", engine.config.url, engine.config.model)
    return engine


class ServerEngine:
    """Captions regions with a server's model; see `Engine`."""

    def __init__(self, config: ServerEngineConfig) -> None:
        self.config = config
        self.account = ServerAccount(config.price_in_per_1k, config.price_out_per_1k)
        self._client = ServerClient(config.client())
        self._prep_us = 0

    @property
    def info(self) -> EngineInfo:
        """The server's model; the hash is that of the settings."""
        return EngineInfo(
            model=self.config.model,
            runtime=RUNTIME,
            precision="unknown",
            bundle_sha=self.config.sha256(),
            max_regions=self.config.max_concurrency * self.config.regions_per_request,
            max_new_tokens=self.config.max_tokens,
        )

    @property
    def times(self) -> StageTimes:
        """How long drawing and encoding pictures took."""
        return StageTimes({"prep": self._prep_us})

    @property
    def answers_within_s(self) -> float:
        """A region without an answer after this fails."""
        return self.config.timeout_s

    def summarise(self) -> str:
        """Requests, failures, tokens and cost so far, in one line."""
        return self.account.text()

    def encode(self, image: Image) -> ServerFrame:
        """Shrink the picture, u8 [H, W, 3] RGB, for all requests about it."""
        began_ns = time.perf_counter_ns()
        small = views.shrink(image, self.config.max_side_px)
        self._prep_us = (time.perf_counter_ns() - began_ns) // 1000
        return ServerFrame(image, small, self._prep_us)

    def caption(
        self,
        frame: ServerFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine.caption`. Each text comes at once, with the score 1 and no confidence. Raises
        `EngineError` at the end if regions got no answer.
        """
        height_px, width_px = frame.image.shape[:2]
        check_regions(
            regions, height_px=height_px, width_px=width_px, max_regions=self.info.max_regions
        )
        self._prep_us = frame.prep_us
        slots = asyncio.Semaphore(self.config.max_concurrency)
        return self._write(_Batch(frame, regions, slots), aborted)

    def _write(self, batch: _Batch, aborted: Callable[[int], bool]) -> Iterator[RowDelta | RowDone]:
        with closing(asyncio.new_event_loop()) as loop:
            opening = self._client.session()
            session = loop.run_until_complete(opening.__aenter__())
            tasks = {
                loop.create_task(self._ask(session, batch, tuple(rows))): rows
                for rows in batch.group(self.config.regions_per_request)
            }
            try:
                yield from _collect(loop, dict(tasks), batch, aborted)
            finally:
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
                loop.run_until_complete(opening.__aexit__(None, None, None))
        self.account.unanswered += len(batch.failures)
        if batch.failures:
            raise EngineError("; ".join(dict.fromkeys(batch.failures)))

    async def _ask(self, session: Any, batch: _Batch, rows: Sequence[int]) -> None:
        """Ask about the regions `rows` in one request; notes their ends or failures in `batch`."""
        try:
            reply = await asyncio.wait_for(self._send(session, batch, rows), self.config.timeout_s)
            found = batch.note(rows, reply)
        except asyncio.TimeoutError:
            found = batch.fail(rows, self._explain_late())
        except (ServerError, AnswerError) as error:
            found = batch.fail(rows, str(error))
        except asyncio.CancelledError:
            self.account.cancelled += 1
            raise
        self.account.failed += not found

    async def _send(self, session: Any, batch: _Batch, rows: Sequence[int]) -> ServerReply:
        async with batch.slots:
            self.account.asked += 1
            content = self._make_content(batch, rows)
            limit = self.config.max_tokens * len(rows)
            reply = await self._client.ask(session, content, max_tokens=limit)
        self.account.tokens_in += reply.tokens_in
        self.account.tokens_out += reply.tokens_out
        return reply

    def _make_content(self, batch: _Batch, rows: Sequence[int]) -> list[dict[str, Any]]:
        began_ns = time.perf_counter_ns()
        content = make_content(
            [("jpeg", views.encode_jpeg(view)) for view in self._draw(batch, rows)],
            make_prompt(
                self.config.prompts.of(batch.regions[rows[0]].style),
                count=len(rows),
                pictures=self.config.pictures,
            ),
        )
        self._prep_us += (time.perf_counter_ns() - began_ns) // 1000
        return content

    def _draw(self, batch: _Batch, rows: Sequence[int]) -> Iterator[Image]:
        masks = [batch.regions[row].mask for row in rows]
        side_px = self.config.max_side_px
        if self.config.pictures != "crop":
            small = batch.frame.small
            outlines = [views.shrink_mask(mask, side_px) for mask in masks]
            if len(rows) == 1:
                yield views.draw_outlined(small, outlines[0])
            else:
                yield views.draw_numbers(small, outlines, first=1)
        if self.config.pictures != "outlined":
            for mask in masks:
                crop = views.crop_with_margin(batch.frame.image, mask, margin=_CONTEXT_MARGIN)
                yield views.shrink(crop, side_px)

    def _explain_late(self) -> str:
        return (
            f"{self.config.url} gave no answer within timeout_s={self.config.timeout_s:g} s; raise "
            "it, take a faster model, or send less (max_side_px, pictures)"
        )


@dataclass
class _Batch:
    """One call of `caption`: its rows, and how those that have ended did."""

    frame: ServerFrame
    regions: Sequence[RegionInput]
    slots: asyncio.Semaphore
    """How many requests may be open."""
    ended: dict[int, RowDone] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def group(self, size: int) -> Iterator[list[int]]:
        """Rows that share a request: of one style, at most `size`."""
        for style in ("short", "long"):
            rows = [row for row, region in enumerate(self.regions) if region.style == style]
            for first in range(0, len(rows), size):
                yield rows[first : first + size]

    def note(self, rows: Sequence[int], reply: ServerReply) -> int:
        """Take the captions of an answer, and return how many there are. Raises `AnswerError` if it
        cannot be used at all.
        """
        if reply.stop == "length":
            raise AnswerError("the server cut the answer off: raise max_tokens")
        found = parse_captions(reply.text, len(rows))
        for row, said in zip(rows, found.values(), strict=True):
            if isinstance(said, AnswerError):
                self.fail([row], str(said))
            else:
                n_tok = reply.tokens_out // len(rows) or len(said.split())
                self.ended[row] = RowDone(row=row, text=said, n_tok=n_tok, stop="eos", score=1.0)
        return sum(row in self.ended for row in rows)

    def fail(self, rows: Sequence[int], reason: str) -> int:
        """These regions get no caption; returns 0, the number of captions."""
        self.failures += [reason] * len(rows)
        return 0


def _collect(
    loop: asyncio.AbstractEventLoop,
    tasks: dict[asyncio.Task[None], list[int]],
    batch: _Batch,
    aborted: Callable[[int], bool],
) -> Iterator[RowDelta | RowDone]:
    """Yield what ends, in the order of its end, until every request is answered or cancelled."""
    while tasks:
        waiting = asyncio.wait(tasks, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        done, _ = loop.run_until_complete(waiting)
        for task in done:
            task.result()  # a fault of ours is raised here
            for row in tasks.pop(task):
                if row in batch.ended:
                    yield RowDelta(row=row, offset=0, text=batch.ended[row].text)
                    yield batch.ended[row]
        for task, rows in list(tasks.items()):
            for row in [row for row in rows if aborted(row)]:
                rows.remove(row)
                yield RowDone(row=row, text="", n_tok=0, stop="aborted", score=0.0)
            if not rows:
                task.cancel()
                del tasks[task]
