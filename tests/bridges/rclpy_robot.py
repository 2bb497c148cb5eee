"""A robot of real rclpy: publishes images with odd stamps, prints what it heard as JSON.

rclpy_robot.py SECONDS
"""

import array
import json
import sys
import time

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

WIDTH, HEIGHT = 160, 120


def picture() -> bytes:
    """A red square on grey."""
    row = bytes((90, 90, 90)) * WIDTH
    red = bytes((90, 90, 90)) * 40 + bytes((200, 30, 30)) * 60 + bytes((90, 90, 90)) * 60
    return b"".join(red if 30 <= y < 80 else row for y in range(HEIGHT))


def main() -> None:
    """Until the time is over, or enough was heard."""
    rclpy.init()
    node = Node("robot")
    heard = {"sent": [], "captions": [], "masks": []}

    def take_mask(image: Image) -> None:
        heard["masks"].append(image.header.stamp.sec * 10**9 + image.header.stamp.nanosec)

    node.create_subscription(
        String, "/ureca/cam0/captions", lambda m: heard["captions"].append(m.data), 10
    )
    node.create_subscription(Image, "/ureca/cam0/masks", take_mask, 10)
    publisher = node.create_publisher(Image, "/camera/image_raw", 5)
    pixels = array.array("B", picture())
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end and len(heard["masks"]) < 5:
        now_ns = time.time_ns() | 1
        image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(now_ns, 10**9)
        image.header.frame_id = "optical"
        image.data = pixels
        publisher.publish(image)
        heard["sent"].append(now_ns)
        rclpy.spin_once(node, timeout_sec=0.1)
    sys.stdout.write(json.dumps(heard))


if __name__ == "__main__":
    main()
