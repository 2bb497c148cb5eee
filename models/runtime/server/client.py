"""The client of OpenAI-compatible servers, through the `openai` package.

The package tries again by itself after refused connections, time-outs, 408, 409, 429 (as long as
the server says) and 5xx. The key comes from the environment, never from a file or the command line.
An answer is read up to a limit, is never decompressed, and redirects are not followed: pictures go
to the host of the URL only. Curation and the engine ask through this client.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ureca.errors import ConfigError, UrecaError
from ureca.extras import require

KEY_VARIABLE = "OPENAI_API_KEY"
_SHOWN_CHARS = 120


class ServerError(UrecaError):
    """The server gave no answer after all attempts, or something that is no answer."""


class _TooLargeError(Exception):
    """An answer went past the limit; the rest was not read."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Address and settings of the server."""

    url: str
    model: str
    temperature: float = 0.2
    max_tokens: int = 512
    retries: int = 6
    timeout_s: float = 120.0
    """Of each attempt: the longest silence of the server."""
    per_minute: float = 0.0
    """Requests started per minute, over all threads; 0: no limit."""
    max_answer_bytes: int = 1 << 20
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of every request, for what only some servers know."""
    uses_proxy: bool = True
    """Whether HTTP_PROXY and the like of the environment count."""

    def __post_init__(self) -> None:
        parse_host(self.url)
        if not self.model:
            raise ConfigError("a server needs the name of a model: --model NAME")
        if self.timeout_s <= 0 or self.retries < 0:
            raise ConfigError(
                f"expected --timeout above 0 and --retries of 0 or more, got {self.timeout_s}, "
                f"{self.retries}"
            )
        if self.max_answer_bytes < 1:
            raise ConfigError(f"max_answer_bytes must be positive, got {self.max_answer_bytes}")


def parse_host(url: str) -> str:
    """Return the lower-case host of `http(s)://HOST[:PORT]/…`. Raises `ConfigError` for another
    form, and for a URL with a password: the key belongs in the environment.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a wrong port raises here
    except ValueError as error:
        raise ConfigError(f"expected http(s)://HOST/v1: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(f"expected http(s)://HOST/v1, got {url!r:.{_SHOWN_CHARS}}")
    if parts.username is not None:
        raise ConfigError(f"the URL holds a name or password; set {KEY_VARIABLE} instead")
    return host


@dataclass(frozen=True, slots=True)
class ServerReply:
    """The text of an answer, its cost in tokens (0 if the server does not say), and whether the
    server cut it off (`stop`: its `finish_reason`).
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    stop: str = ""


class ServerClient:
    """Asks one server. Raises `MissingExtraError` without the package `openai`.

    `ask` belongs to one event loop at a time: a `session` opens the connections and closes them.
    """

    def __init__(self, config: ServerConfig, *, extra: str = "server") -> None:
        self._config = config
        self._openai: Any = require("openai", extra=extra)
        self._httpx: Any = _import_http_package(self._openai)
        self._limited = _make_limited_stream(self._httpx)
        is_https = config.url.startswith("https:")
        self._verify = self._httpx.create_ssl_context() if is_https else False
        self._pace = RateLimiter(config.per_minute)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """Connections for any number of `ask`."""
        http = self._openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            trust_env=self._config.uses_proxy,
            verify=self._verify,
            event_hooks={"response": [self._limit]},
            headers={"Accept-Encoding": "identity"},
        )
        async with self._openai.AsyncOpenAI(
            base_url=self._config.url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            max_retries=self._config.retries,
            timeout=self._config.timeout_s,
            http_client=http,
        ) as opened:
            yield opened

    async def ask(
        self, session: Any, content: Sequence[dict[str, Any]], *, max_tokens: int | None = None
    ) -> ServerReply:
        """Return the answer to one message. Raises `ServerError` if no attempt gave one."""
        await asyncio.sleep(self._pace.reserve())
        url, openai = self._config.url, self._openai
        try:
            async with session.chat.completions.with_streaming_response.create(
                model=self._config.model,
                messages=[{"role": "user", "content": list(content)}],
                temperature=self._config.temperature,
                max_tokens=max_tokens or self._config.max_tokens,
                extra_body=dict(self._config.extra_body) or None,
            ) as response:
                data: bytes = await response.read()
        except _TooLargeError as error:
            raise ServerError(
                f"{url} sent more than max_answer_bytes={self._config.max_answer_bytes} bytes"
            ) from error
        except (openai.OpenAIError, self._httpx.HTTPError) as error:
            raise ServerError(_explain(url, error)) from error
        return parse_reply(data, url)

    def ask_once(self, content: Sequence[dict[str, Any]]) -> ServerReply:
        """As `ask`, in a session and an event loop of its own. May be called from many threads."""

        async def run() -> ServerReply:
            async with self.session() as session:
                return await self.ask(session, content)

        return asyncio.run(run())

    async def _limit(self, response: Any) -> None:
        response.headers.pop("content-encoding", None)  # what is compressed is no answer
        response.stream = self._limited(response.stream, self._config.max_answer_bytes)


def _import_http_package(openai: Any) -> Any:
    """The HTTP package under `openai`: `httpx`, or `httpx2` in its later versions."""
    base = openai.DefaultAsyncHttpxClient.__mro__[1]
    return importlib.import_module(base.__module__.partition(".")[0])


def _make_limited_stream(httpx: Any) -> Any:
    """The class of body streams that raise `_TooLargeError` past a limit."""

    class LimitedStream(httpx.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, limit: int) -> None:
            self._stream, self._left = stream, limit

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._stream:
                self._left -= len(chunk)
                if self._left < 0:
                    raise _TooLargeError
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    return LimitedStream


def _explain(url: str, error: Exception) -> str:
    """One line: what failed, and what helps."""
    name, words = type(error).__name__, " ".join(str(error).split())[:_SHOWN_CHARS]
    remedy = {
        "APIConnectionError": "; is the server running there?",
        "APITimeoutError": "; raise timeout_s, or take a faster model",
        "AuthenticationError": f"; set {KEY_VARIABLE}",
        "NotFoundError": "; is the model's name right, and does the URL end in /v1?",
        "RateLimitError": "; lower the requests per minute",
    }.get(name, "")
    return f"{url}: {name}: {words}{remedy}"


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


def parse_reply(data: bytes, url: str) -> ServerReply:
    """Read the body of an answer. Raises `ServerError` for anything else, such as HTML.

    An answer without content is an empty text: it was paid for, and says nothing.
    """
    try:
        completion = msgspec.json.decode(data, type=_Completion)
        choice = completion.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
        start = data[:_SHOWN_CHARS].decode("utf8", "backslashreplace")
        raise ServerError(f"{url} sent no answer: {error}; it begins with {start!a}") from error
    usage = completion.usage or _Usage()
    if usage.prompt_tokens < 0 or usage.completion_tokens < 0:
        raise ServerError(f"{url} sent no answer: negative usage")
    return ServerReply(
        choice.message.content or "",
        usage.prompt_tokens,
        usage.completion_tokens,
        choice.finish_reason or "",
    )


def make_content(pictures: Sequence[tuple[str, bytes]], prompt: str) -> list[dict[str, Any]]:
    """Return the content of a message: pictures (kind such as `png`, bytes), then the prompt."""
    parts: list[dict[str, Any]] = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"},
        }
        for kind, data in pictures
    ]
    return [*parts, {"type": "text", "text": prompt}]


class RateLimiter:
    """Limits the rate of callers per minute, evenly."""

    def __init__(self, per_minute: float) -> None:
        self._gap_s = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def reserve(self) -> float:
        """Take the next turn; return the seconds until it comes."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap_s
        return max(0.0, turn - time.monotonic())
