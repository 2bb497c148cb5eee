"""Writes the graphs of a bundle as files of its runtime: ONNX, TensorRT plans, or machine code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from ureca.errors import EngineError
from ureca.export.config import TORCH_TENSORRT, ExportConfig
from ureca.export.graphs.interfaces import build_interfaces
from ureca.export.graphs.onnx_export import (
    find_free_dimensions,
    make_example,
    make_traceable,
    save_graph,
    silence_exporter,
)
from ureca.export.graphs.tensorrt_plans import build_plan
from ureca.export.graphs.torch_tensorrt_plans import build_torch_tensorrt_plan
from ureca.extras import require
from ureca.models.nano.network import Captioner
from ureca.models.runtime.compatibility import BUCKET_PROFILES
from ureca.models.runtime.trt import EXTRAS, PACKAGES

SUFFIXES = {"onnx": ".onnx", "ort-gpu": ".onnx", "aoti": ".pt2", **dict.fromkeys(PACKAGES, ".plan")}


def write_graph(
    name: str, proto: ModelProto, stage: Path, *, model: Captioner, config: ExportConfig
) -> str:
    """Write one graph for `config.runtime` and return its file name.

    `proto` is the ONNX graph in the bundle's precision. Raises `EngineError` when NVIDIA's builder
    refuses it, `MissingExtraError` when the runtime's package is not installed.
    """
    file = f"{name}{SUFFIXES[config.runtime]}"
    if config.runtime == "aoti":
        compile_aoti(model, name, stage / file)
    elif config.builder == TORCH_TENSORRT:
        (stage / file).write_bytes(_build_with_torch_tensorrt(name, model, config))
    elif config.runtime in PACKAGES:
        trt = require(PACKAGES[config.runtime], extra=EXTRAS[config.runtime])
        (stage / file).write_bytes(_build_plan(trt, proto, name, model, config))
    else:
        save_graph(proto, stage / file)
    return file


def compile_aoti(model: Captioner, name: str, path: Path) -> None:
    """Compile one graph in float32 with AOTInductor for this machine; takes minutes."""
    specs = build_interfaces(model.config)[name].inputs
    with torch.no_grad(), silence_exporter():
        program = torch.export.export(
            make_traceable(model, name),
            tuple(make_example(spec) for spec in specs),
            dynamic_shapes=(tuple(find_free_dimensions(spec) for spec in specs),),
        )
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))  # noqa: SLF001
        except RuntimeError as error:
            raise EngineError(
                f"AOTInductor cannot compile {name!r}: {error}; it needs a C++ compiler (g++, or "
                "CXX=...); --runtime onnx needs none"
            ) from error


def _build_with_torch_tensorrt(name: str, model: Captioner, config: ExportConfig) -> bytes:
    return build_torch_tensorrt_plan(
        config.runtime,
        model,
        name,
        max_regions=config.max_regions,
        half=config.precision == "fp16",
        buckets=_list_profile_rows(config),
    )


def _build_plan(
    trt: Any, proto: ModelProto, name: str, model: Captioner, config: ExportConfig
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{name}.onnx"
        save_graph(proto, source)
        return build_plan(
            trt,
            source,
            name,
            model.config,
            max_regions=config.max_regions,
            buckets=_list_profile_rows(config),
            target=config.target if config.target and not config.target.endswith("+") else "",
        ).plan


def _list_profile_rows(config: ExportConfig) -> tuple[int, ...]:
    """The batch sizes that get an optimisation profile of their own."""
    return (config.buckets or ()) if config.runtime in BUCKET_PROFILES else ()
