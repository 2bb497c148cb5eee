"""What a captioner is trained on: readers of region captions, and our own worlds."""
