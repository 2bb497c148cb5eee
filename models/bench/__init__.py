"""Measurements of captioning speed. `ureca bench` is in `cli`."""
