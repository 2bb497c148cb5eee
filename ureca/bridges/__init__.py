"""What carries a node's words elsewhere: ROS 2 (`ros`) and Rerun (`rerun_log`).

A bridge is a client: it speaks only the public `ureca.AsyncClient` and `ureca.FramePublisher`, and
runs on any host that reaches the node. Its heavy libraries come with extras.
"""
