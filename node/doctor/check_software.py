"""Checks the installation: extras, runtimes, devices, the captioner, ports, weights."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import metadata, util

import zmq

from ureca.client.client import Client
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.client.sockets import bind
from ureca.engine import is_remote
from ureca.errors import RequestError, UrecaError
from ureca.extras import require
from ureca.node.doctor.findings import Finding

_NEED = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*;\s*extra == ['\"](?P<extra>\w+)['\"]")
_RUNTIMES = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx", "torch": "export"}
_HELLO_S = 1.0


def extras() -> Finding:
    """Which extras are complete; only `node` is required."""
    missing = _missing(metadata.requires("ureca") or [])
    whole = [name for name, lacks in missing.items() if not lacks]
    said = f"installed: client, {', '.join(whole) or 'nothing else'}"
    if missing.get("node"):
        lacks = ", ".join(missing["node"])
        return Finding("extras", "bad", f"{said}; node lacks {lacks}", "pip install 'ureca[node]'")
    return Finding("extras", "ok", said)


def runtimes() -> Iterator[Finding]:
    """ONNX Runtime with its providers, the other runtimes, and the CUDA device."""
    ort = require("onnxruntime", extra="node")
    providers = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    yield Finding("onnxruntime", "ok", f"{ort.__version__} with {', '.join(providers)}")
    for module, extra in _RUNTIMES.items():
        if util.find_spec(module) is None:
            yield Finding(
                module, "absent", f"not installed; optional: pip install 'ureca[{extra}]'"
            )
        else:
            yield Finding(module, "ok", f"{_version(module)} is installed")
    yield _gpu()


def captioner(folder: str) -> Finding:
    """Opens the bundle as the node does: hashes, runtime, device, golden picture."""
    began = time.perf_counter()
    try:
        from ureca.node.captioning.engine_loader import open_engine

        engine = open_engine(folder)
        info = engine.info
    except ImportError as error:
        return Finding("captioner", "bad", str(error), "pip install 'ureca[node]'")
    except UrecaError as error:  # its message ends in the remedy
        return Finding("captioner", "bad", str(error))
    if is_remote(engine):
        return Finding("captioner", "ok", f"{info.model} of a server, which was not asked")
    seconds = time.perf_counter() - began
    result = f"loads; self-test captions are as expected ({seconds:.1f} s)"
    return Finding("captioner", "ok", f"{info.model}, {info.precision}: {result}")


def ports(events: str = EVENTS_ADDRESS, requests: str = REQUESTS_ADDRESS) -> Iterator[Finding]:
    """Whether the node could bind its addresses; which process uses them if not."""
    for name, address in (("events", events), ("requests", requests)):
        trouble = _cannot_bind(address)
        if trouble is None:
            yield Finding(name, "ok", f"{address} is free")
        else:
            yield _taken(name, address, trouble, _node_at(events, requests))


def _missing(requirements: list[str]) -> dict[str, list[str]]:
    """Packages that each extra lacks."""
    lacks: dict[str, list[str]] = {}
    for match in filter(None, map(_NEED.match, requirements)):
        absent = lacks.setdefault(match["extra"], [])
        if _version(match["name"]) is None:
            absent.append(match["name"])
    return lacks


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu() -> Finding:
    from ureca.models.runtime.cuda import find_compute_capability

    device, reason = find_compute_capability()
    if device is None:
        return Finding("gpu", "absent", reason)
    remedy = "ureca export CHECKPOINT -o DIR --runtime auto"
    return Finding("gpu", "ok", f"CUDA device {device}; for an engine of its own: {remedy}")


def _cannot_bind(address: str) -> str | None:
    """Why the address cannot be bound; None when it can."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        try:
            bind(socket, address)
        except zmq.ZMQError as error:
            return error.strerror
    return None


def _node_at(events: str, requests: str) -> str | None:
    """The model of the node that answers there, None when none does."""
    try:
        with Client.connect(events, requests, timeout_s=_HELLO_S) as client:
            return client.hello().model
    except RequestError:
        return None


def _taken(name: str, address: str, trouble: str, model: str | None) -> Finding:
    if model is not None:
        return Finding(name, "warn", f"{address}: a node with {model} is running there")
    remedy = (
        f"end what holds it (ss -ltnp), or: ureca run --set publish.{name}=tcp://127.0.0.1:PORT"
    )
    return Finding(name, "bad", f"{address}: {trouble}, and no node answers there", remedy)
