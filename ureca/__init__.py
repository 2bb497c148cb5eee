"""ureca: captions for tracked regions of live camera frames."""
