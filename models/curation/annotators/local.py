"""A transformers vision-language model on this machine as annotator."""

from __future__ import annotations

import threading
from typing import Any

from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.curation.prompts import AnnotatorQuestion, Answer


class LocalAnnotator:
    """Answers with a model and processor of `AutoModelForImageTextToText`, one at a time.

    `folder` is a folder or the name of a model in the local cache of the hub; nothing is fetched
    unless the hub's own environment allows it. Raises `WeightsError` when it cannot be loaded, or
    is no chat model.
    """

    def __init__(self, folder: str, *, max_tokens: int = 256, device: str = "auto") -> None:
        transformers: Any = require("transformers", extra="curation")
        self._torch: Any = require("torch", extra="train")
        self._pillow: Any = require("PIL.Image", extra="curation")
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(
                folder, trust_remote_code=False
            )
            self._model = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise WeightsError(f"cannot load {folder}: {error}") from error
        if not getattr(self._processor, "chat_template", None):
            raise WeightsError(
                f"{folder} has no chat template: expected a model that is instructed in a chat"
            )
        self._model.to(device).eval()
        self._name, self._max_tokens = folder, max_tokens
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """Folder and length."""
        return f"{self._name} n={self._max_tokens}"

    def answer(self, question: AnnotatorQuestion) -> Answer:
        """Greedy, so that a run can be repeated."""
        shown = [self._pillow.fromarray(view) for view in question.views]
        content = [{"type": "image", "image": view} for view in shown]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]
        with self._lock, self._torch.inference_mode():
            inputs = self._processor.apply_chat_template(
                chat,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self._model.device, dtype=self._model.dtype)
            ids = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        said = ids[0, inputs["input_ids"].shape[1] :]
        text = self._processor.decode(said, skip_special_tokens=True)
        return Answer(text, int(inputs["input_ids"].shape[1]), len(said))
