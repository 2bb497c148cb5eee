"""Masks for keyframes, computed off the step thread."""
