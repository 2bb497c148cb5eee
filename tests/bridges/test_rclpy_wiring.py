"""The wiring to `rclpy`, with a small fake of it: no ROS is installed here, so this proves which
calls are made with what, and nothing about ROS itself.
"""

from __future__ import annotations

import array
import sys
import time
import types
from dataclasses import fields

import pytest

from ureca.bridges.ros import messages
from ureca.bridges.ros.messages import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    Header,
    Image,
    Message,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Time,
)
from ureca.bridges.ros.rclpy_node import RclpyTransport
from ureca.errors import MissingExtraError


class Node:
    def __init__(self):
        self.published, self.callbacks, self.destroyed = [], [], False

    def create_publisher(self, kind, topic, qos):
        return types.SimpleNamespace(
            publish=lambda message: self.published.append((kind, topic, qos, message))
        )

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks.append((kind, topic, callback, qos))

    def destroy_node(self):
        self.destroyed = True


class Executor:
    def __init__(self, context):
        self.nodes, self.due = [], []

    def add_node(self, node):
        self.nodes.append(node)

    def spin_once(self, timeout_sec):
        while self.due:
            self.due.pop(0)()
        time.sleep(0.01)

    def shutdown(self):
        self.nodes.clear()


def ros_class(kind):
    """A message as rosidl makes it: keyword arguments, and `uint8[]` is an array of bytes."""

    def init(self, **values):
        assert values.keys() <= {field.name for field in fields(kind)}
        for name, value in values.items():
            assert not isinstance(value, bytes | tuple | Message), f"{name} is none of ROS's"
            setattr(self, name, value)

    return type(kind.__name__, (), {"__init__": init})


@pytest.fixture
def ros(monkeypatch):
    node, executors, calls = Node(), [], []

    def executor(context):
        executors.append(Executor(context))
        return executors[-1]

    class Qos(types.SimpleNamespace):
        pass

    modules = {
        "rclpy": types.SimpleNamespace(
            context=types.SimpleNamespace(Context=object),
            init=lambda context: calls.append("init"),
            create_node=lambda name, context: node,
            shutdown=lambda context: calls.append("shutdown"),
        ),
        "rclpy.executors": types.SimpleNamespace(SingleThreadedExecutor=executor),
        "rclpy.qos": types.SimpleNamespace(
            QoSProfile=Qos,
            HistoryPolicy=types.SimpleNamespace(KEEP_LAST="keep_last"),
            DurabilityPolicy=types.SimpleNamespace(VOLATILE="volatile"),
            ReliabilityPolicy=types.SimpleNamespace(RELIABLE="reliable", BEST_EFFORT="best_effort"),
        ),
    }
    for kind in vars(messages).values():
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message:
            package, folder, name = kind.ros_name.split("/")
            module = modules.setdefault(f"{package}.{folder}", types.SimpleNamespace())
            setattr(module, name, ros_class(kind))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(node=node, executors=executors, calls=calls, modules=modules)


def test_messages_become_ros_messages_and_back(ros):
    transport = RclpyTransport()
    try:
        header = Header(Time(1, 2), "optical")
        one = Detection2D(
            header,
            (ObjectHypothesisWithPose(ObjectHypothesis("a mug", 0.5)),),
            BoundingBox2D(size_x=3.0),
            "r1",
        )
        publish = transport.publisher("/ureca/cam0/detections", Detection2DArray, "reliable")
        assert publish(Detection2DArray(header, (one,)))
        _, topic, qos, sent = ros.node.published[0]
        assert topic == "/ureca/cam0/detections"
        assert (qos.reliability, qos.depth, qos.durability) == ("reliable", 10, "volatile")
        assert type(sent) is ros.modules["vision_msgs.msg"].Detection2DArray
        assert (sent.header.stamp.sec, sent.header.stamp.nanosec) == (1, 2)
        assert sent.detections[0].results[0].hypothesis.class_id == "a mug"
        assert sent.detections[0].results[0].pose.covariance == [0.0] * 36

        heard = []
        transport.subscribe("/camera", Image, "sensor", heard.append)
        _, topic, callback, qos = ros.node.callbacks[0]
        assert (qos.reliability, qos.depth) == ("best_effort", 5)
        image = Image(header, 1, 2, "mono8", 0, 2, b"ab")
        transport.publisher("/camera", Image, "sensor")(image)
        foreign = ros.node.published[1][3]
        assert foreign.data == array.array("B", b"ab")
        ros.executors[0].due.append(lambda: callback(foreign))
        until = time.monotonic() + 10
        while not heard and time.monotonic() < until:
            time.sleep(0.01)
        assert heard == [image]
    finally:
        transport.close()
    assert ros.node.destroyed
    assert ros.calls == ["init", "shutdown"]


def test_without_ros_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(MissingExtraError, match=r"source .*setup\.bash"):
        RclpyTransport()
