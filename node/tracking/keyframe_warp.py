"""A keyframe while a segmenter looks at it, and the way from there to the newest picture.

The segmenter's answer is about a picture that is past. Each newer frame adds its flow to one map
that leads from the newest picture straight back to the keyframe; what was cut out there is read
through that map. The memory is one map per keyframe, however late the answer comes. Work-sized
throughout.
"""

from __future__ import annotations

from ureca.node.masks.color_histogram import F32
from ureca.node.masks.optical_flow import FlowField, sample
from ureca.node.tracking.mask_propagation import Picture

_FAR = 3


class KeyView:
    """A keyframe's picture, and the map that leads back to it."""

    def __init__(self, seq: int, picture: Picture) -> None:
        self.seq = seq
        self.picture = picture
        self._back: F32 | None = None
        self._frames = 0

    @property
    def is_far(self) -> bool:
        """Whether so many frames have come since that flow alone has blurred the way."""
        return self._frames > _FAR

    def follow(self, flow: FlowField) -> None:
        """One more frame has come, with its flow from the frame before."""
        self._frames += 1
        if self._back is None:
            self._back = flow.backward
        else:
            self._back = flow.backward + sample(self._back, flow.backward)

    def forward(self, soft: F32) -> F32:
        """`soft` f32 [h, w] on the keyframe as it lies on the newest picture."""
        return soft if self._back is None else sample(soft, self._back)
