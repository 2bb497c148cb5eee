"""Regions drawn on pictures: masks in their colours, captions that can be read.

Shared by `ureca describe --render`, `ureca caption --render` and `ureca run --render`. Needs OpenCV
and Pillow (the extra `render`); the contract and the node never import it by themselves.
"""
