"""Encodes text as ids and decodes captions: a lower-cased BPE, and captions that grow without
flicker.

A caption's own sequence is `[region tokens][<short> or <long>][caption ids][<eos>]`: the two start
tokens select the length and `<eos>` ends the caption. The file is the JSON of the `tokenizers`
package: no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ureca.datatypes import Style
from ureca.errors import WeightsError
from ureca.extras import require

if TYPE_CHECKING:
    import tokenizers

PAD_ID, SHORT_ID, LONG_ID, EOS_ID = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<short>", "<long>", "<eos>")
_START_IDS: dict[Style, int] = {"short": SHORT_ID, "long": LONG_ID}
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """Encodes and decodes text: lower-cased, without accents; unknown characters are left out."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise WeightsError(
                f"a tokenizer must begin with {SPECIAL_TOKENS}, this one begins with {found}"
            )

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`. Raises `WeightsError` when it is missing or broken."""
        package = require("tokenizers", extra="node")
        try:
            return cls(package.Tokenizer.from_str(path.read_text(encoding="utf8")))
        except OSError as error:
            raise WeightsError(f"cannot read the tokenizer {path}: {error}") from error
        except ValueError as error:
            raise WeightsError(
                f"{path} is not a tokenizer of the `tokenizers` package: {error}"
            ) from error
        except Exception as error:  # the package raises bare `Exception` for malformed JSON
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(
                f"{path} is not a tokenizer of the `tokenizers` package: {error}"
            ) from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        path.write_text(self._inner.to_str(pretty=False), encoding="utf8")

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without any special token."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`: special tokens are left out, surrounding space is stripped."""
        return self._inner.decode(list(ids), skip_special_tokens=True).strip()

    @staticmethod
    def start_id(style: Style) -> int:
        """The token that asks for a noun phrase (`short`) or a sentence (`long`)."""
        return _START_IDS[style]


class SupportsDecode(Protocol):
    """Decodes ids to text: our tokenizer, or that of another language model."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out, surrounding space stripped."""


class Detokenizer:
    """Converts the ids of one growing caption to deltas that are never revoked.

    Trailing space and bytes of an unfinished character are held back until the next ids complete
    them. All deltas together (with `finish`) equal `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: SupportsDecode) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self.text = ""
        """The text so far. The next delta starts at `len(text)`."""

    def push(self, token_id: int) -> str:
        """Return the text that is certain with this id; often empty."""
        self._ids.append(token_id)
        return self._emit(self._tokenizer.decode(self._ids).rstrip(_UNFINISHED).rstrip())

    def finish(self) -> str:
        """Return the text that was held back; call once, after the last id."""
        return self._emit(self._tokenizer.decode(self._ids))

    def _emit(self, text: str) -> str:
        delta = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += delta
        return delta


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE on captions: no accents, lower case, `▁` for space, separate punctuation.

    `vocab_size` counts the four special tokens and is an upper bound; rare characters beyond the
    64 commonest are left out. Identical texts in identical order give an identical tokenizer.
    """
    package = require("tokenizers", extra="train")
    normalizers, pre = package.normalizers, package.pre_tokenizers
    inner = package.Tokenizer(package.models.BPE())
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Strip(),
        ]
    )
    inner.pre_tokenizer = pre.Sequence([pre.Metaspace(), pre.Punctuation()])
    inner.decoder = package.decoders.Metaspace()
    inner.train_from_iterator(
        texts,
        package.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            limit_alphabet=64,
            show_progress=False,
        ),
    )
    return Tokenizer(inner)
