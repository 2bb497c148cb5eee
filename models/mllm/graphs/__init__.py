"""Runs the exported graphs of a full-size captioner. Imports no torch."""
