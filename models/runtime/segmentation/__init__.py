"""Segmenters: the protocol, SAM 2 in ONNX Runtime, and a scripted one for tests."""
