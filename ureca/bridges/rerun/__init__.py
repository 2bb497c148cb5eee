"""Rerun: pictures, masks, boxes, captions and latencies on one timeline (`docs/pictures.md`)."""
