"""Frames in: recorded video, cameras, network streams and frames over ZeroMQ."""
