"""An OpenAI-compatible server as annotator, through the client of `models/runtime/server`."""

from __future__ import annotations

from ureca.models.curation.errors import AnnotatorError
from ureca.models.curation.prompts import AnnotatorQuestion, Answer
from ureca.models.runtime.server.client import (
    ServerClient,
    ServerConfig,
    ServerError,
    make_content,
)
from ureca.models.runtime.server.views import encode_png


class ServerAnnotator:
    """Annotates with a server's model. Raises `MissingExtraError` without the extra `curation`."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._client = ServerClient(config, extra="curation")

    @property
    def model(self) -> str:
        """Model and sampling, because other settings give other answers."""
        return f"{self._config.model} t={self._config.temperature} n={self._config.max_tokens}"

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """Return the server's text. Raises `AnnotatorError` if no attempt gave one."""
        pictures = [("png", encode_png(view)) for view in question.views]
        try:
            reply = self._client.ask_once(make_content(pictures, question.prompt))
        except ServerError as error:
            raise AnnotatorError(str(error)) from error
        return Answer(reply.text, reply.tokens_in, reply.tokens_out)
