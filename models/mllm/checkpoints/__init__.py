"""Reads and writes checkpoints, wraps base models, converts the published layout, composes two
models.
"""
