"""A keyframe in the segmenter, and the flow from it to the newest image.

The segmenter's result is for a past image. Each newer frame adds its flow to one map from the
newest image directly back to the keyframe; masks of the keyframe are read through that map. The
memory is one map per keyframe, however late the result comes. All in work resolution.
"""

from __future__ import annotations

from ureca.node.masks.color_histogram import F32
from ureca.node.tracking.mask_propagation import WorkImage
from ureca.node.tracking.optical_flow import FlowField, sample

_FAR = 3


class KeyframeWarp:
    """A keyframe's picture, and the map that leads back to it."""

    def __init__(self, seq: int, picture: WorkImage) -> None:
        self.seq = seq
        self.picture = picture
        self._back: F32 | None = None
        self._frames = 0

    @property
    def is_far(self) -> bool:
        """Whether so many frames have come that the map is no longer exact."""
        return self._frames > _FAR

    def follow(self, flow: FlowField) -> None:
        """Add a frame with its flow from the previous frame."""
        self._frames += 1
        if self._back is None:
            self._back = flow.backward
        else:
            self._back = flow.backward + sample(self._back, flow.backward)

    def forward(self, soft: F32) -> F32:
        """Warp `soft` f32 [h, w] from the keyframe to the newest image."""
        return soft if self._back is None else sample(soft, self._back)
