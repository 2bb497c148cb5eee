"""Attributes read off region tokens: one linear head for each over a closed list of words.

The weights are fitted on cached tokens with every weight of the captioner frozen
(`models/evaluation/attributes`); their temperature is folded in, so a softmax of the logits is
calibrated. The word "" means that the attribute does not apply. Two have no weights: `location` is
computed from the mask, `category` is the caption's head noun with the caption's confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ureca.attributes import ATTRIBUTES, AttributeAnswer
from ureca.bundle import AttributeHead, AttributeWeights, file_spec
from ureca.datatypes import Mask, RegionInput
from ureca.errors import BundleError
from ureca.models.runtime.grounding.phrases import parse

F32 = npt.NDArray[np.float32]
ATTRIBUTES_FILE, ARRAYS = "attributes.json", "attributes.npz"
"""Of a checkpoint: the section of the manifest, and the weights, which the bundle has, too."""
CATEGORY: Final = "category"
LOCATION: Final = "location"
COMPUTED: Final = frozenset({CATEGORY, LOCATION})
"""Attributes without weights."""
NOT_APPLICABLE: Final = ""
_LEAST_CONFIDENCE: Final = 0.4
_MIDDLE: Final = (0.4, 0.6)
"""Between these shares of width or height a region is in the middle."""


@dataclass(frozen=True, slots=True)
class AttributeReader:
    """Answers attributes. `weights` f32 [K * d, C] and `bias` f32 [C] of all heads side by side,
    in the order of `heads`, which have the words of the columns.
    """

    heads: Mapping[str, AttributeHead]
    weights: F32
    bias: F32

    @classmethod
    def load(
        cls, path: Path, heads: Mapping[str, AttributeHead], *, inputs: int
    ) -> AttributeReader:
        """Read a file that `save_arrays` wrote. Raises `BundleError` if it does not fit the heads
        or the model.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                rows = file["rows"].astype(np.float32)[:, None]
                scales = [file[f"{name}.scale"].astype(np.float32) for name in heads]
                stored = [file[f"{name}.weights"].astype(np.float32) for name in heads]
                weights = [w * rows * scale for w, scale in zip(stored, scales, strict=True)]
                bias = [file[f"{name}.bias"].astype(np.float32) for name in heads]
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{path} holds no weights of attributes: {error}") from error
        for (name, head), given, offset in zip(heads.items(), weights, bias, strict=True):
            expected = (inputs, len(head.words))
            if given.shape != expected or offset.shape != expected[1:]:
                raise BundleError(
                    f"{path}: {name} is {given.shape}, the model and its words need {expected}"
                )
            if not (np.isfinite(given).all() and np.isfinite(offset).all()):
                raise BundleError(f"{path}: the weights of {name} are not finite")
        return cls(dict(heads), np.concatenate(weights, axis=1), np.concatenate(bias))

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that are answered, in the order of `ureca.attributes`."""
        return tuple(name for name in ATTRIBUTES if name in self.heads or name in COMPUTED)

    def read(
        self, tokens: F32, regions: Sequence[RegionInput]
    ) -> list[tuple[AttributeAnswer, ...]]:
        """Answer `attributes` of each of `regions`, whose tokens are f32 [N, K, d]; all but the
        category, which needs a caption.
        """
        chances = self.estimate(tokens)
        return [
            tuple(
                answer_location(region.mask)
                if name == LOCATION
                else self._answer(name, chances[name][row])
                for name in region.attributes
                if name in chances or name == LOCATION
            )
            for row, region in enumerate(regions)
        ]

    def estimate(self, tokens: F32) -> dict[str, F32]:
        """Probabilities f32 [N, words] of every head for tokens f32 [N, K, d]."""
        logits = tokens.reshape(len(tokens), -1) @ self.weights + self.bias
        found: dict[str, F32] = {}
        start = 0
        for name, head in self.heads.items():
            own = logits[:, start : start + len(head.words)]
            start += len(head.words)
            odds = np.exp(own - own.max(axis=1, keepdims=True))
            found[name] = np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)
        return found

    def _answer(self, name: str, chances: F32) -> AttributeAnswer:
        head = self.heads[name]
        best = int(chances.argmax())
        probability = round(float(chances[best]), 4)
        if head.words[best] == NOT_APPLICABLE or probability < head.min_probability:
            words = [place for place, word in enumerate(head.words) if word != NOT_APPLICABLE]
            probability = round(float(chances[words].max()), 4)
            return AttributeAnswer(name=name, status="abstained", probability=probability)
        text = head.words[best]
        return AttributeAnswer(name=name, status="said", text=text, probability=probability)


def _find_centre(counts: npt.NDArray[np.int64]) -> float:
    """The mean place, 0..1, of pixels that lie `counts` [n] by row or column."""
    places = np.arange(len(counts)) + 0.5
    return float(counts @ places / (counts.sum() * len(counts)))


def save_arrays(path: Path, weights: Mapping[str, F32], bias: Mapping[str, F32]) -> None:
    """Write weights f32 [inputs, C] and bias f32 [C] by attribute: weights as int8 with a scale for
    every word, after a scale for every input (`rows`) that all attributes share.
    """
    rows = np.sqrt((np.concatenate([*weights.values()], axis=1) ** 2).mean(axis=1)) + 1e-12
    arrays: dict[str, npt.NDArray[np.generic]] = {"rows": rows.astype(np.float32)}
    for name, whole in weights.items():
        plain = whole / rows[:, None]
        scale = np.abs(plain).max(axis=0) / 127 + 1e-12
        arrays[f"{name}.weights"] = np.round(plain / scale).astype(np.int8)
        arrays[f"{name}.scale"] = scale.astype(np.float32)
        arrays[f"{name}.bias"] = np.asarray(bias[name], np.float32)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def answer_category(text: str, confidence: float | None) -> AttributeAnswer:
    """The head noun of a caption, with the caption's confidence."""
    noun = parse(text).noun
    if not noun or confidence is None or confidence < _LEAST_CONFIDENCE:
        return AttributeAnswer(name=CATEGORY, status="abstained", probability=confidence)
    return AttributeAnswer(name=CATEGORY, status="said", text=noun, probability=confidence)


def answer_location(mask: Mask) -> AttributeAnswer:
    """Where the centre of a mask bool [H, W] is in the image."""
    y, x = (_find_centre(np.count_nonzero(mask, axis=axis)) for axis in (1, 0))
    down = "upper" if y < _MIDDLE[0] else "lower" if y > _MIDDLE[1] else ""
    across = "left" if x < _MIDDLE[0] else "right" if x > _MIDDLE[1] else ""
    side = {"upper": "at the top", "lower": "at the bottom"}.get(down, "in the middle")
    if across:
        side = f"at the {down} {across}" if down else f"on the {across}"
    return AttributeAnswer(name=LOCATION, status="said", text=side, probability=1.0)


def checkpoint_attributes(folder: Path) -> AttributeWeights | None:
    """The section of a checkpoint with the hash of its arrays, None if it has none. Raises
    `BundleError`.
    """
    path = folder / ATTRIBUTES_FILE
    if not path.is_file() or not (folder / ARRAYS).is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=AttributeWeights)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"{path} holds no attributes: {error}") from error
    return check_heads(msgspec.structs.replace(found, arrays=file_spec(folder, ARRAYS)), path)


def check_heads(section: AttributeWeights, source: Path | str) -> AttributeWeights:
    """The section itself. Raises `BundleError` for an attribute that this version does not know."""
    unknown = sorted({*section.heads} - ({*ATTRIBUTES} - COMPUTED))
    if unknown:
        raise BundleError(f"{source}: unknown attributes {unknown}: update ureca")
    return section
