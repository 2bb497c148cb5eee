"""Checkpoint to bundle: ONNX graphs, quantisation and the proof that they still say the same."""
