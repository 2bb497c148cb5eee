"""`ureca sources`: lists the possible values of `ureca run --source` on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ureca.node.doctor.cameras import CameraDevice, cameras


def main(argv: Sequence[str] | None = None) -> int:
    """List cameras, and the demo clip of a checkout; 0 even when there is none."""
    options = _parser().parse_args(argv)
    found = [*cameras(), *_demo()]
    if options.json:
        print(json.dumps([asdict(camera) for camera in found], indent=1))
        return 0
    width = max((len(camera.uri) for camera in found), default=0)
    for camera in found:
        trouble = f"  ({camera.trouble}: sudo usermod -aG video $USER)" if camera.trouble else ""
        print(f"{camera.uri:<{width}}  {camera.name}{trouble}")
    if not any(camera.uri.startswith("v4l2:") for camera in found):
        print("no camera is plugged in; files, rtsp://, http:// and zmq+tcp:// work without one")
    return 0


def _demo() -> list[CameraDevice]:
    """The demo clip of a checkout; nothing where only the client is installed."""
    try:
        from ureca.node.captioning.engine_loader import find_demo_clip
    except ImportError:
        return []
    demo = find_demo_clip()
    return [] if demo is None else [CameraDevice(str(demo[0]), "the demo clip, rendered")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca sources",
        description="List the cameras of this machine, as URIs for `ureca run --source`.",
        epilog="example: ureca run --source \"$(ureca sources --json | jq -r '.[0].uri')\"",
    )
    parser.add_argument("--json", action="store_true", help="one JSON list")
    return parser
