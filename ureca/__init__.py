"""ureca: captions for tracked regions of live camera frames.

These names are the public interface of the client side; importing them loads no model framework.
"""

import os

from ureca.client.async_client import AsyncClient
from ureca.client.client import Client
from ureca.client.frame_publisher import FramePublisher
from ureca.client.panoptic_view import PanopticView
from ureca.datatypes import Frame, Image, Mask, RegionSeed, Rle, TextPrompt
from ureca.errors import (
    BundleError,
    ConfigError,
    EngineError,
    MissingExtraError,
    RegionError,
    RequestError,
    SourceError,
    UrecaError,
    VersionError,
    WeightsError,
    WireError,
)
from ureca.protocol.events import (
    AnyEvent,
    CaptionAbort,
    CaptionDelta,
    CaptionError,
    CaptionFinal,
    CaptionSame,
    CaptionStart,
    Heartbeat,
    Panoptic,
    RecordingStopped,
    TextAbsent,
    TextFound,
    TrackEnd,
    TrackLost,
    TrackNew,
    TrackRecovered,
    TrackUpdate,
)
from ureca.protocol.requests import Description, Health, Hello

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later would report models and runs to its maker (its Privacy.md), from its
# import on. Robots report to nobody; whoever wants it sets 0 in the environment.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "AnyEvent",
    "AsyncClient",
    "BundleError",
    "CaptionAbort",
    "CaptionDelta",
    "CaptionError",
    "CaptionFinal",
    "CaptionSame",
    "CaptionStart",
    "Client",
    "ConfigError",
    "Description",
    "EngineError",
    "Frame",
    "FramePublisher",
    "Health",
    "Heartbeat",
    "Hello",
    "Image",
    "Mask",
    "MissingExtraError",
    "Panoptic",
    "PanopticView",
    "RecordingStopped",
    "RegionError",
    "RegionSeed",
    "RequestError",
    "Rle",
    "SourceError",
    "TextAbsent",
    "TextFound",
    "TextPrompt",
    "TrackEnd",
    "TrackLost",
    "TrackNew",
    "TrackRecovered",
    "TrackUpdate",
    "UrecaError",
    "VersionError",
    "WeightsError",
    "WireError",
    "__version__",
]
