"""Panoptic segmentation: every pixel of a picture to one segment, things and stuff."""

from ureca.models.runtime.segmentation.panoptic.find_segments import find_segments
from ureca.models.runtime.segmentation.panoptic.segments import PanopticMap, PanopticSegment

__all__ = ["PanopticMap", "PanopticSegment", "find_segments"]
