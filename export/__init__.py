"""Converts a checkpoint to a bundle: exports ONNX graphs, quantises them and checks their
parity.
"""
