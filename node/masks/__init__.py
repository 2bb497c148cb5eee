"""Masks as pixels: from a prompt to a mask, geometry, optical flow, colour histograms. No state."""
