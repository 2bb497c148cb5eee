"""`ureca eval panoptic`: every pixel to one segment, and every segment a caption."""
