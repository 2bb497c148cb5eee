"""Whole frames: segments of keyframes join the regions that are followed."""
