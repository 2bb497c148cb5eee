"""Exports any checkpoint of `ureca-mllm` as graphs that the node runs without torch."""
