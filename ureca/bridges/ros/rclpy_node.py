"""ROS 2 through `rclpy`, where ROS is installed: the same messages and converters as `dds`.

`rclpy` and vision_msgs come from a ROS installation (`source /opt/ros/humble/setup.bash`), or from
PyPI: `pip install ros-rclpy ros-rmw-fastrtps-cpp ros-sensor-msgs`, without vision_msgs.
"""

from __future__ import annotations

import array
import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from ureca.bridges.ros.generic import from_foreign, to_foreign
from ureca.bridges.ros.messages import Message
from ureca.bridges.ros.transport import DEPTH, Quality
from ureca.errors import MissingExtraError

_SPIN_S = 0.2
_M = TypeVar("_M", bound=Message)


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module!r} is not installed ({error}): source a ROS 2 installation with vision_msgs "
            "(source /opt/ros/humble/setup.bash), or pip install ros-rclpy ros-rmw-fastrtps-cpp "
            "ros-sensor-msgs (without vision_msgs), or leave out --rclpy to use plain DDS"
        ) from error


def _class_of(kind: type[Message]) -> Any:  # a class of ROS, which is not installed here
    package, folder, name = kind.ros_name.split("/")
    return getattr(_require(f"{package}.{folder}"), name)


def _as_array(data: bytes) -> array.array[int]:
    """What rclpy takes for `uint8[]` without looking at every byte."""
    return array.array("B", data)


class RclpyTransport:
    """A ROS node, spinning on a thread of its own. Raises `MissingExtraError` without ROS."""

    def __init__(self, name: str = "ureca_bridge") -> None:
        self._rclpy: Any = _require("rclpy")
        self._context = self._rclpy.context.Context()
        self._rclpy.init(context=self._context)
        self._node = self._rclpy.create_node(name, context=self._context)
        executors = _require("rclpy.executors")
        self._executor = executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="ureca-rclpy")
        self._thread.start()

    def publisher(self, topic: str, kind: type[_M], quality: Quality) -> Callable[[_M], bool]:
        """See `Transport`."""
        ros = self._node.create_publisher(_class_of(kind), topic, self._qos(quality))

        def publish(message: _M) -> bool:
            ros.publish(to_foreign(message, _class_of, _as_array))
            return True

        return publish

    def subscribe(
        self, topic: str, kind: type[_M], quality: Quality, heard: Callable[[_M], None]
    ) -> None:
        """See `Transport`."""
        self._node.create_subscription(
            _class_of(kind),
            topic,
            lambda message: heard(from_foreign(kind, message)),
            self._qos(quality),
        )

    def close(self) -> None:
        """See `Transport`."""
        self._stop.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._rclpy.shutdown(context=self._context)

    def _qos(self, quality: Quality) -> Any:
        qos = _require("rclpy.qos")
        reliability = qos.ReliabilityPolicy
        return qos.QoSProfile(
            history=qos.HistoryPolicy.KEEP_LAST,
            depth=DEPTH[quality],
            durability=qos.DurabilityPolicy.VOLATILE,
            reliability=(
                reliability.RELIABLE if quality == "reliable" else reliability.BEST_EFFORT
            ),
        )

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=_SPIN_S)
