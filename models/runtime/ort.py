"""ONNX Runtime on the CPU, the default runtime. KV caches stay in OrtValues.

Sessions do not spin: on a busy two-core board a spinning pool costs more than it gains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ureca.errors import BundleError, EngineError
from ureca.extras import require
from ureca.models.onnx_file import find_external_data
from ureca.models.runtime.graph_backend import Value, Values

PROVIDER = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, str]]
"""Name of an execution provider, with or without its options."""

Session = Any  # the package ships no type information


class OrtRunner:
    """Implements `graph_backend.Runner` over one session per graph."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._ort = _import_onnxruntime()
        self._errors = list_error_types()
        self._sessions = sessions

    def put(self, array: npt.NDArray[Any]) -> Value:
        """Return the array as an OrtValue that shares its memory."""
        return self._ort.OrtValue.ortvalue_from_numpy(array)

    def run(self, graph: str, outputs: Sequence[str], feeds: Values) -> dict[str, Value]:
        """Run one session."""
        try:
            values = self._run(self._sessions[graph], list(outputs), feeds)
        except self._errors as error:
            shapes = {name: value.shape() for name, value in feeds.items()}
            raise EngineError(f"graph {graph!r} failed on inputs {shapes}: {error}") from error
        return dict(zip(outputs, values, strict=True))

    def _run(self, session: Session, outputs: list[str], feeds: Values) -> Sequence[Value]:
        values: Sequence[Value] = session.run_with_ort_values(outputs, dict(feeds))
        return values


def open_session(
    path: Path, *, threads: int, providers: Sequence[Provider] = (PROVIDER,)
) -> Session:
    """Open one graph on the first of `providers`. Raises `BundleError` when it cannot run there."""
    package, first = _import_onnxruntime(), _name_of_provider(providers[0])
    find_external_data(path)  # a graph of a stranger must not read files beside its bundle
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = (
        False  # a pattern would be kept for every new combination of lengths
    )
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if first not in package.get_available_providers():
        raise BundleError(
            f"{path} needs {first}, this onnxruntime {package.__version__} has "
            f"{package.get_available_providers()}: pip install 'ureca[gpu]' (after pip uninstall "
            "onnxruntime), or make a bundle for the CPU: ureca export CHECKPOINT --runtime onnx"
        )
    try:
        session = package.InferenceSession(str(path), options, providers=list(providers))
    except list_error_types() as error:
        raise BundleError(
            f"onnxruntime {package.__version__} cannot open {path}: {error}; update onnxruntime or "
            "export the bundle again with this version"
        ) from error
    if session.get_providers()[0] != first:
        # ONNX Runtime drops a provider whose libraries are missing and only logs it.
        raise BundleError(
            f"expected {path} on {first}, it runs on {session.get_providers()}: install the CUDA "
            "libraries that this onnxruntime asks for, or export with --runtime onnx"
        )
    session.disable_fallback()
    return session


def make_run_options() -> Any:
    """Make options for a session's runs. When `terminate` is True, runs end with an error at their
    next operator.
    """
    return _import_onnxruntime().RunOptions()


def count_default_threads() -> int:
    """Return the cores that this process may use, at most 4: the node has other work."""
    return min(len(os.sched_getaffinity(0)), 4)


def get_ort_version() -> str:
    """Return the version of the installed onnxruntime."""
    return str(_import_onnxruntime().__version__)


def _name_of_provider(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _import_onnxruntime() -> ModuleType:
    return require("onnxruntime", extra="node")


def list_error_types() -> tuple[type[Exception], ...]:
    """List the unrelated exception types that the package raises."""
    package = _import_onnxruntime()
    state = vars(package.capi.onnxruntime_pybind11_state).values()
    raised = [t for t in state if isinstance(t, type) and issubclass(t, Exception)]
    return (*raised, RuntimeError, ValueError)
