"""Synthetic scenes: composed, compiled for MuJoCo and settled."""
