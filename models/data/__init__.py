"""Training data of a captioner: readers of region captions, and our own synthetic worlds."""
