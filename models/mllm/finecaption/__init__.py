"""FineCaption (arXiv 2411.15411): a mask-aware CLIP and two encoders of large images (torch)."""
