"""Checkpoints: read, write, wrap a base model, convert the published layout, compose two models."""
