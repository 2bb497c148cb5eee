"""ONNX Runtime: what ships and runs by default. KV caches stay in OrtValues.

Sessions do not spin (a spinning pool costs a busy two-core board more than it gains).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import BundleError, EngineError
from ureca.extras import require
from ureca.models.config import LanguageConfig
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.graphs import (
    GATHER,
    LM,
    MAPS,
    REGIONS,
    VISION,
    VISION_OUTPUTS,
    LmNames,
)

PROVIDER = "CPUExecutionProvider"

OrtValue = Any  # the package ships no type information
Session = Any


@dataclass(frozen=True, slots=True)
class OrtPicture:
    """OrtValues of one picture: image tokens, feature maps, and the prefix KV once filled."""

    tokens: OrtValue
    maps: Mapping[str, OrtValue]
    prefix: Mapping[str, OrtValue]


class OrtBackend:
    """Implements `engine.Backend` on ONNX Runtime."""

    def __init__(
        self,
        sessions: Mapping[str, Session],
        *,
        embeddings: npt.NDArray[np.float16] | F32,
        language: LanguageConfig,
    ) -> None:
        self._ort = _onnxruntime()
        self._errors = _error_types(self._ort)
        self._sessions = sessions
        self._embeddings = np.ascontiguousarray(embeddings, np.float32)
        self._names = LmNames.of(language.layers)
        self._heads, self._head_dim = language.heads, language.head_dim

    def encode(self, pixels: F32) -> OrtPicture:
        """Vision: image tokens and feature maps."""
        values = self._run(VISION, VISION_OUTPUTS, {"pixel_values": self._value(pixels)})
        tokens = values["image_tokens"]
        if not np.isfinite(tokens.numpy()).all():
            raise EngineError(
                "vision gave numbers that are not finite for an ordinary picture: the weights are "
                "damaged; export the checkpoint again"
            )
        return OrtPicture(tokens, {name: values[name] for name in MAPS}, {})

    def prefill(self, picture: OrtPicture) -> OrtPicture:
        """The prefix pass is a step of one row with nothing before it: its own KV is the prefix."""
        feeds = {
            "x": picture.tokens,
            **self._empty(self._names.prefix),
            **self._empty(self._names.own),
        }
        values = self._run(LM, self._names.grown, feeds)
        return replace(picture, prefix=_renamed(values, self._names.grown, self._names.prefix))

    def regions(self, picture: OrtPicture, masks: F32, boxes: F32) -> F32:
        """Region tokens f32 [N, K, d]."""
        feeds = {"masks": self._value(masks), "boxes": self._value(boxes), **picture.maps}
        return np.asarray(self._run(REGIONS, ("region_tokens",), feeds)["region_tokens"].numpy())

    def embed(self, ids: I64) -> F32:
        """Rows of the embedding table."""
        return self._embeddings[ids]

    def step(
        self, picture: OrtPicture, x: F32, own: Mapping[str, OrtValue] | None
    ) -> tuple[Choice, Mapping[str, OrtValue]]:
        """One pass of the language model; only ids and log-probabilities become numpy."""
        past = own if own is not None else self._empty(self._names.own, rows=x.shape[0])
        feeds = {"x": self._value(x), **picture.prefix, **past}
        values = self._run(LM, ("argmax", "logprob", *self._names.grown), feeds)
        choice = Choice(values["argmax"].numpy()[:, 0], values["logprob"].numpy()[:, 0])
        return choice, _renamed(values, self._names.grown, self._names.own)

    def bare(self, picture: OrtPicture) -> OrtPicture:
        """The picture with an empty prefix, for runs that bring the image tokens along."""
        return replace(picture, prefix=self._empty(self._names.prefix))

    def keep(self, own: Mapping[str, OrtValue], slots: I64) -> Mapping[str, OrtValue]:
        """Gather rows of every layer's own KV, inside the runtime."""
        values = self._run(GATHER, self._names.grown, {"rows": self._value(slots), **own})
        return _renamed(values, self._names.grown, self._names.own)

    def logits(
        self, picture: OrtPicture, x: F32, own: Mapping[str, OrtValue] | None
    ) -> tuple[F32, Mapping[str, OrtValue]]:
        """As `step`, but the whole row of logits f32 [N, V]: what parity reports compare."""
        past = own if own is not None else self._empty(self._names.own, rows=x.shape[0])
        feeds = {"x": self._value(x), **picture.prefix, **past}
        values = self._run(LM, ("logits", *self._names.grown), feeds)
        logits = np.asarray(values["logits"].numpy(), np.float32)
        return logits, _renamed(values, self._names.grown, self._names.own)

    def _run(
        self, graph: str, outputs: Iterable[str], feeds: Mapping[str, OrtValue]
    ) -> dict[str, OrtValue]:
        names = list(outputs)
        try:
            values = self._sessions[graph].run_with_ort_values(names, dict(feeds))
        except self._errors as error:
            shapes = {name: value.shape() for name, value in feeds.items()}
            raise EngineError(f"graph {graph!r} failed on inputs {shapes}: {error}") from error
        return dict(zip(names, values, strict=True))

    def _value(self, array: npt.NDArray[Any]) -> OrtValue:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    def _empty(self, names: Iterable[str], *, rows: int = 1) -> dict[str, OrtValue]:
        value = self._value(np.zeros((self._heads, rows, 0, self._head_dim), np.float32))
        return dict.fromkeys(names, value)


def open_session(path: Path, *, threads: int) -> Session:
    """Open one graph on the CPU. Raises `BundleError` when it cannot run here."""
    package = _onnxruntime()
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = package.InferenceSession(str(path), options, providers=[PROVIDER])
    except _error_types(package) as error:
        raise BundleError(
            f"onnxruntime {package.__version__} cannot open {path}: {error}; update onnxruntime or "
            "export the bundle again with this version"
        ) from error
    if session.get_providers()[0] != PROVIDER:
        raise BundleError(f"expected {path} on {PROVIDER}, it runs on {session.get_providers()}")
    return session


def default_threads() -> int:
    """Cores that this process may use, at most 4: the node has other work."""
    return min(len(os.sched_getaffinity(0)), 4)


def runtime_version() -> str:
    """Version of the installed onnxruntime."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> ModuleType:
    return require("onnxruntime", extra="node")


def _error_types(package: ModuleType) -> tuple[type[Exception], ...]:
    """The package raises a dozen unrelated exception types."""
    state = vars(package.capi.onnxruntime_pybind11_state).values()
    raised = [t for t in state if isinstance(t, type) and issubclass(t, Exception)]
    return (*raised, RuntimeError, ValueError)


def _renamed(
    values: Mapping[str, OrtValue], old: Iterable[str], new: Iterable[str]
) -> dict[str, OrtValue]:
    return {after: values[before] for before, after in zip(old, new, strict=True)}
