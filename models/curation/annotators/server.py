"""An OpenAI-compatible server as annotator, through the `openai` package.

The package tries again by itself after refused connections, time-outs, 408, 409, 429 (as long as
the server says) and 5xx. The key comes from the environment, never from the command line.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.curation.errors import AnnotatorError
from ureca.models.curation.prompts import AnnotatorQuestion, Answer
from ureca.models.curation.views import encode_png

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Address and settings of the server."""

    url: str
    model: str
    temperature: float = 0.2
    max_tokens: int = 512
    retries: int = 6
    timeout_s: float = 120.0
    per_minute: float = 0.0
    """Requests started per minute, over all threads; 0: no limit."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"expected http(s)://HOST/v1, got {self.url!r}")
        if not self.model:
            raise ConfigError("a server needs the name of a model: --model NAME")
        if self.timeout_s <= 0 or self.retries < 0:
            raise ConfigError(
                f"expected --timeout above 0 and --retries of 0 or more, got {self.timeout_s}, "
                f"{self.retries}"
            )


class ServerAnnotator:
    """Annotates with a server's model. Raises `MissingExtraError` without the extra `curation`."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._openai: Any = require("openai", extra="curation")
        self._client = self._openai.OpenAI(
            base_url=config.url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            max_retries=config.retries,
            timeout=config.timeout_s,
        )
        self._pace = RateLimiter(config.per_minute)

    @property
    def model(self) -> str:
        """Model and sampling, because other settings give other answers."""
        return f"{self._config.model} t={self._config.temperature} n={self._config.max_tokens}"

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """Return the server's text. Raises `AnnotatorError` if no attempt gave one."""
        self._pace.wait()
        try:
            reply = self._client.chat.completions.create(
                model=self._config.model,
                messages=[{"role": "user", "content": _make_content(question)}],
                temperature=self._config.temperature,
                max_tokens=self._config.max_tokens,
            )
        except self._openai.OpenAIError as error:
            raise AnnotatorError(f"{self._config.url}: {type(error).__name__}: {error}") from error
        except (ValueError, TypeError) as error:  # 200 with something that is no answer
            raise AnnotatorError(f"{self._config.url} sent no answer: {error}") from error
        return _parse_answer(reply, self._config.url)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class RateLimiter:
    """Limits the rate of callers per minute, evenly."""

    def __init__(self, per_minute: float) -> None:
        self._gap_s = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the caller's turn."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap_s
        time.sleep(max(0.0, turn - time.monotonic()))


def _make_content(question: AnnotatorQuestion) -> list[dict[str, Any]]:
    pictures = [
        {
            "type": "image_url",
            "image_url": {
                "url": f"data:image/png;base64,{base64.b64encode(encode_png(view)).decode()}"
            },
        }
        for view in question.views
    ]
    return [*pictures, {"type": "text", "text": question.prompt}]


def _parse_answer(reply: Any, url: str) -> Answer:  # whatever the server sent
    try:
        text = reply.choices[0].message.content
        usage = reply.usage
        cost = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    except (AttributeError, IndexError, TypeError) as error:
        raise AnnotatorError(f"{url} sent no answer: {error}") from error
    text = "" if text is None else text  # an empty answer: paid for, and no caption
    if not isinstance(text, str) or not all(isinstance(n, int) for n in cost):
        raise AnnotatorError(f"{url} sent no answer: content {text!r:.60}, usage {cost}")
    return Answer(text, *cost)
