"""Builds the prompt `[..image..][mask][instruction]` in the base's format and counts its
placeholders.

The prompt is split at the mask block. The part before it does not depend on the region and runs
once per image. Both parts begin at a special token, so the split changes no token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Style
from ureca.errors import ConfigError, WeightsError
from ureca.extras import require
from ureca.models.mllm.config import Layout, PromptConfig
from ureca.models.preprocess import Grid

EXTRA = "mllm"
I64 = npt.NDArray[np.int64]
_GLOBAL, _FAKE = "<global-img>", "<fake_token_around_image>"


class TextTokenizer:
    """Encodes and decodes text with the base's `tokenizer.json`."""

    def __init__(self, inner: Any) -> None:  # a `tokenizers.Tokenizer`
        self._inner = inner

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a `tokenizer.json`. Raises `WeightsError` when it is missing or broken."""
        package = require("tokenizers", extra=EXTRA)
        try:
            text = path.read_text(encoding="utf8")
            return cls(package.Tokenizer.from_str(text))
        except Exception as error:  # the package raises bare `Exception` for malformed JSON
            raise WeightsError(f"cannot read the tokenizer {path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        path.write_text(self._inner.to_str(pretty=False), encoding="utf8")

    def add_special(self, tokens: Sequence[str]) -> int:
        """Append the tokens that are not known yet; return their number."""
        package = require("tokenizers", extra=EXTRA)
        added = [package.AddedToken(token, special=True, normalized=False) for token in tokens]
        return int(self._inner.add_special_tokens(added))

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`. Special tokens in it become their ids, and none is added."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens and surrounding space."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True)).strip()

    def id_of(self, token: str) -> int:
        """Return the id of one token. Raises `WeightsError` if the tokenizer does not have it."""
        found = self._inner.token_to_id(token)
        if found is None:
            raise WeightsError(
                f"the tokenizer has no token {token!r}: name the base's own in `prompt`, or wrap "
                "the base again: ureca mllm wrap BASE -o CHECKPOINT"
            )
        return int(found)


class CaptionPrompt:
    """Builds ids of an image's shared prefix and of a region's own suffix, and counts
    placeholders.
    """

    def __init__(
        self, words: TextTokenizer, config: PromptConfig, *, layout: Layout, tokens_per_tile: int
    ) -> None:
        self._words, self._config, self._layout = words, config, layout
        self._per_tile = tokens_per_tile
        self.image_id, self.mask_id = (
            words.id_of(config.image_token),
            words.id_of(config.mask_token),
        )
        self.mark_ids = tuple(words.id_of(mark) for mark in config.marks)
        self.stop_ids = tuple(words.id_of(token) for token in config.stop)

    def encode_prefix(self, grid: Grid) -> I64:
        """Return everything before the mask block, for an image of `grid`."""
        text = self._config.begin + self._format_image_block(grid) + self._config.image_close
        return self._encode_counted(text, images=self._per_tile * grid.tiles, masks=0)

    def encode_suffix(self, style: Style, *, mask_tokens: int, attribute: str = "") -> I64:
        """Return the mask block, the instruction and the start of the answer. `attribute` is asked
        for in place of a caption.
        """
        config = self._config
        block = config.mask_open + config.mask_token * mask_tokens + config.mask_close
        text = block + config.instruction(style, attribute) + config.end
        return self._encode_counted(text, images=0, masks=mask_tokens)

    def encode_answer(self, caption: str) -> list[int]:
        """Return a caption and the token that ends it. Raises `ConfigError` for placeholders in
        it.
        """
        ids = self._words.encode(caption)
        check_count(np.array(ids), self.image_id, 0, "image placeholders in a caption")
        check_count(np.array(ids), self.mask_id, 0, "mask placeholders in a caption")
        return [*ids, self.stop_ids[0]]

    def _format_image_block(self, grid: Grid) -> str:
        one = self._config.image_token * self._per_tile
        if self._layout == "plain":
            return self._config.image_open + one * grid.tiles
        if self._layout == "each":
            return self._config.image_close.join([self._config.image_open + one] * grid.tiles)
        whole = f"{_FAKE}{_GLOBAL}{one}"
        if grid.tiles == 1:
            return whole
        rows = [
            "".join(f"{_FAKE}<row_{row + 1}_col_{col + 1}>{one}" for col in range(grid.cols))
            for row in range(grid.rows)
        ]
        return "\n".join(rows) + "\n\n" + whole

    def _encode_counted(self, text: str, *, images: int, masks: int) -> I64:
        """Return ids of `text`. A captioner without image tokens in its prefix may use one
        placeholder for both.
        """
        ids = np.array(self._words.encode(text), np.int64)
        if self.image_id != self.mask_id:
            check_count(ids, self.image_id, images, "image placeholders")
        check_count(ids, self.mask_id, masks, "mask placeholders")
        return ids


def check_count(ids: I64, token_id: int, expected: int, what: str) -> None:
    """Raise `ConfigError` unless `token_id` occurs exactly `expected` times.

    (The official trainer gives such a sample zero loss and goes on.)
    """
    found = int((ids == token_id).sum())
    if found != expected:
        raise ConfigError(
            f"expected {expected} {what}, found {found}: look for them in the texts of `prompt`"
        )


def count_positions(image: npt.NDArray[np.bool_], *, side: int | None) -> tuple[I64, int]:
    """Return positions i64 [A, P] of a prompt in which `image` bool [P] are the image tokens, and
    the position behind the last one.

    `side`: tokens along a side of a tile where positions have three dimensions (A = 3): tokens of a
    tile have one time; their rows and columns count from there. None: positions 0, 1, ... (A = 1).
    """
    if side is None:
        return np.arange(len(image), dtype=np.int64)[None], len(image)
    down, right = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    tile = np.stack([np.zeros_like(down), down, right]).reshape(3, -1)
    one = np.zeros((3, 1), np.int64)
    places, at, seen, flags = [], 0, 0, image.tolist()
    while seen < len(flags):
        part, steps = (tile, side) if flags[seen] else (one, 1)
        places.append(part + at)
        at, seen = at + steps, seen + part.shape[1]
    return np.concatenate(places, axis=1), at
