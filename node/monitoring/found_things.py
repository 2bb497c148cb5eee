"""What a segmenter found by itself in a run, and which limits left things out, in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ureca.node.config import NodeConfig

_INDENT = "\n" + 12 * " "


@dataclass(frozen=True)
class FoundThings:
    """`began`: regions that began by themselves. `left_out`: the most things of one keyframe that
    did not, by the setting that says so.
    """

    began: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def lines(self, config: NodeConfig) -> list[str]:
        """Lines of the summary, for people."""
        if self.began:
            found = f"found       {self.began} thing{'s' * (self.began != 1)} by itself"
        elif self.left_out.total():
            found = "found       nothing that is worth following"
        else:
            found = "found       nothing: the segmenter saw no thing (docs/tracking.md)"
        words = _explain(config)
        cuts = [f"{count} {words[key]}" for key, count in sorted(self.left_out.items()) if count]
        if not cuts:
            return [found]
        return [found, f"left out    at most at once: {(',' + _INDENT).join(cuts)}"]


def _explain(config: NodeConfig) -> dict[str, str]:
    segmenter, limits = config.segmenter, config.limits
    return {
        "min_share": f"smaller than segmenter.min_share ({segmenter.min_share:.2%} of the picture)",
        "max_share": f"larger than segmenter.max_share ({segmenter.max_share:.2%} of the picture)",
        "max_regions": "for want of room (segmenter.max_regions "
        f"{segmenter.max_regions}, limits.max_regions {limits.max_regions})",
        "zones": "by their place (segmenter.zones: "
        + ", ".join(f"{zone.mode} {zone.name}" for zone in segmenter.zones)
        + ")",
        "classes": "of other classes (segmenter.include_classes, segmenter.exclude_classes)",
    }
