"""Bridges to other systems: ROS 2 (`ros`) and Rerun (`rerun`).

A bridge is a client: it uses only the public `ureca.AsyncClient` and `ureca.FramePublisher`, and
runs on any host that reaches the node. Extras install its large libraries.
"""
