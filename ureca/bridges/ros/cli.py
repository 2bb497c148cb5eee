"""`ureca ros`: a node's detections on ROS 2, and ROS 2 cameras for a node."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from ureca.bridges.node_follower import NodeFollower
from ureca.bridges.ros.bridge import BridgeOptions, Forwarded, Incoming, Outgoing
from ureca.bridges.ros.dds import DdsTransport, domain_of
from ureca.bridges.ros.matching import FASTDDS_PROFILE
from ureca.bridges.ros.rclpy_node import RclpyTransport
from ureca.bridges.ros.transport import Transport
from ureca.client.async_client import AsyncClient
from ureca.client.frame_publisher import FramePublisher
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.errors import ConfigError
from ureca.log import configure
from ureca.protocol.messagepack import is_id
from ureca.security.keys import add_key_options, keys_of

FRAMES_ADDRESS = "tcp://127.0.0.1:5600"
_BOXES_ONLY_PX, _WITH_MASKS_PX = 64, 1920

_EPILOG = """examples:
  ureca ros                                     detections of every stream on /ureca/STREAM/...
  ureca ros --masks mono16                      mask images and the names of their values, too
  ureca ros --panoptic                          label images of whole frames (ureca run --panoptic)
  ureca ros --image /camera/image_raw=cam0      forward a camera; run the node with
                                                  ureca run --source zmq+tcp://127.0.0.1:5600"""


def main(argv: Sequence[str] | None = None) -> int:
    """Bridge until Ctrl-C or `--duration`. Raises deliberate errors for the command line."""
    options = _parser().parse_args(argv)
    if options.fastdds_profile:
        print(FASTDDS_PROFILE, end="")
        return 0
    configure("info")
    published = _bridge_options(options)
    raw, packed = _named(options.image), _named(options.compressed)
    if raw.keys() & packed.keys():
        raise ConfigError(f"--image and --compressed name the same stream: {sorted(raw)}")
    with ExitStack() as stack:
        transport = _transport(options)
        stack.callback(transport.close)
        forwarded = Forwarded()
        incoming = None
        if raw or packed:
            camera = stack.enter_context(FramePublisher(options.frames, node="ros"))
            incoming = Incoming(transport, camera, forwarded)
            for stream, topic in raw.items():
                incoming.images(topic, stream)
            for stream, topic in packed.items():
                incoming.compressed(topic, stream)
        outgoing = Outgoing(transport, published, forwarded)
        with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
            asyncio.run(_run(options, outgoing))
    print(_summary(outgoing, incoming), file=sys.stderr)
    return 0


async def _run(options: argparse.Namespace, outgoing: Outgoing) -> None:
    task = asyncio.current_task()
    assert task is not None  # we are in one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    keys = keys_of(options)
    async with AsyncClient.connect(options.events, options.requests, keys=keys) as client:
        follower = NodeFollower(
            client,
            on_sight=outgoing,
            on_event=outgoing.event,
            streams=options.stream or None,
            max_width_px=_WITH_MASKS_PX if options.masks else _BOXES_ONLY_PX,
        )
        await asyncio.wait_for(follower.run(), options.duration)


def _transport(options: argparse.Namespace) -> Transport:
    if options.rclpy:
        return RclpyTransport()
    return DdsTransport(domain_of(options.domain), network=options.network)


def _bridge_options(options: argparse.Namespace) -> BridgeOptions:
    if not options.prefix.startswith("/") or options.prefix.endswith("/"):
        raise ConfigError(f"--prefix is like /ureca, got {options.prefix!r}")
    return BridgeOptions(
        prefix=options.prefix,
        class_id=options.class_id,
        masks=options.masks,
        panoptic=options.panoptic,
        frame_id=options.frame_id,
    )


def _named(texts: Sequence[str]) -> dict[str, str]:
    """Topics by the streams that they become."""
    found: dict[str, str] = {}
    for text in texts:
        topic, _, stream = text.partition("=")
        stream = stream or topic.strip("/").replace("/", "_").lower()
        if not topic.startswith("/") or not is_id(stream) or stream in found:
            raise ConfigError(
                f"expected /TOPIC=STREAM, each stream once, of a-z, 0-9, _ and -; got {text!r}"
            )
        found[stream] = topic
    return found


def _summary(outgoing: Outgoing, incoming: Incoming | None) -> str:
    counts = dict(outgoing.counts) | (dict(incoming.counts) if incoming is not None else {})
    return "ureca ros: " + (", ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca ros",
        description="Publish a node's detections on ROS 2, and forward ROS 2 cameras to a node.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--events", default=EVENTS_ADDRESS, help="address of the node's events [%(default)s]"
    )
    parser.add_argument(
        "--requests", default=REQUESTS_ADDRESS, help="address of the node's requests [%(default)s]"
    )
    add_key_options(parser)
    parser.add_argument(
        "--stream", action="append", default=[], help="only this stream; repeatable [all]"
    )
    parser.add_argument(
        "--fastdds-profile",
        action="store_true",
        help="print the profile that ROS 2 Kilted (Fast DDS 3) needs without --rclpy, and end: "
        "ureca ros --fastdds-profile > ureca.xml; export FASTDDS_DEFAULT_PROFILES_FILE=$PWD/"
        "ureca.xml on the ROS side",
    )
    parser.add_argument("--prefix", default="/ureca", help="prefix of the topics [%(default)s]")
    parser.add_argument(
        "--class-id",
        choices=("caption", "rid", "label"),
        default="caption",
        help="what class_id holds: the caption while it holds, the region's id, or the label "
        "that its sender gave [%(default)s]",
    )
    parser.add_argument("--masks", choices=("mono8", "mono16"), help="also publish mask images")
    parser.add_argument(
        "--panoptic",
        action="store_true",
        help="also publish the segments of `ureca run --panoptic`: a mono16 label image, and the "
        "names of its values",
    )
    parser.add_argument("--frame-id", help="of all headers [the image's, else the stream]")
    for name, what in (("image", "Image"), ("compressed", "CompressedImage")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="/TOPIC[=STREAM]",
            help=f"forward this topic of sensor_msgs/{what} to the node; repeatable",
        )
    parser.add_argument(
        "--frames",
        default=FRAMES_ADDRESS,
        help="address at which the bridge publishes camera frames for the node [%(default)s]",
    )
    parser.add_argument("--domain", help="ROS domain [ROS_DOMAIN_ID, else 0]")
    parser.add_argument(
        "--network", action="store_true", help="use DDS on all interfaces, not only on this host"
    )
    parser.add_argument(
        "--rclpy", action="store_true", help="use an installed rclpy instead of plain DDS"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    return parser
