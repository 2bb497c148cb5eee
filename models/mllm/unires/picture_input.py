"""Pictures and questions as the towers and the language model take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ureca.datatypes import Image
from ureca.errors import ConfigError
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.prompt import CaptionPrompt, TextTokenizer, check_count
from ureca.models.mllm.segmentation.settings import read_image_input
from ureca.models.mllm.unires.config import QUESTION_TEXT
from ureca.models.mllm.unires.network import PictureTensors, Unires
from ureca.models.mllm.unires.proposals import Proposer
from ureca.models.runtime.segmentation.detectors.config import DetectorInput
from ureca.models.runtime.segmentation.detectors.placement import make_network_input, place_image


class UniresReader:
    """Makes input of pictures and texts."""

    def __init__(
        self,
        model: Unires,
        prompt: CaptionPrompt,
        words: TextTokenizer,
        proposer: Proposer,
        *,
        folder: Path,
    ) -> None:
        """`folder`: of the checkpoint; its models have preprocessor files, or the usual values."""
        self.prompt, self._words, self._proposer = prompt, words, proposer
        self._config = model.config
        captioner = model.mllm.config
        picture = replace(captioner.picture, max_tiles=model.config.tiles)
        self._tiler = ImageTiler.of(replace(captioner, picture=picture))
        self._end = captioner.prompt.end
        self._detail = read_image_input(
            str(folder / model.config.detail), model.config.flow.detail_px, is_imagenet=True
        )
        self._decoder = read_image_input(
            str(folder / model.config.decoder), model.decoder.side_px, is_imagenet=True
        )

    def read_picture(self, image: Image) -> PictureTensors:
        """Convert an image u8 [H, W, 3] RGB."""
        grid = self._tiler.choose_grid(image.shape[1], image.shape[0])
        boxes = self._proposer.propose(image)
        return PictureTensors(
            torch.from_numpy(self._tiler.make_pixel_tiles(image, grid)),
            torch.from_numpy(self.prompt.encode_prefix(grid)),
            _stretch(image, self._detail),
            _stretch(image, self._decoder),
            torch.from_numpy(boxes.objects),
            torch.from_numpy(boxes.parts),
        )

    def encode_question(self, text: str) -> Tensor:
        """Ids i64 [L] of the question behind the shared prompt. Raises `ConfigError` for a text
        that holds placeholders.
        """
        asked = self._config.question.replace(QUESTION_TEXT, text)
        ids = torch.tensor(self._words.encode(f"\n{asked}{self._end}"))
        if not len(ids):
            raise ConfigError(f"the question of {text!r:.80} has no tokens")
        for token_id in (self.prompt.image_id, self.prompt.mask_id):
            check_count(ids.numpy(), token_id, 0, "placeholders in a text")
        return ids


def _stretch(image: Image, wanted: DetectorInput) -> Tensor:
    where = place_image((image.shape[0], image.shape[1]), wanted, wanted.canvas_px)
    return torch.from_numpy(make_network_input(image, wanted, where))[None]
