"""ROS 2: detections, captions, masks out; camera images in (`docs/ros.md`).

`messages` and `convert` are shared by two transports: plain DDS (`dds`, no ROS needed) and `rclpy`
(`rclpy_node`).
"""
