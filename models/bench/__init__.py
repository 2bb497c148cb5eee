"""Measures captioning speed; `cli` is `ureca bench`."""
