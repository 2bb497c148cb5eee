"""Averages two checkpoints of the captioner.

    python -m ureca.models.training.average OLD NEW OUT --new 0.7

A stage that teaches new data forgets some of the old. The mean of the weights before and after it
keeps both, because the later ones started from the earlier ones (WiSE-FT, arXiv 2109.01903). A
detector that only the new one has counts as saying nothing in the old one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ureca.errors import ConfigError
from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint, save_checkpoint
from ureca.models.nano.network import Captioner

SILENT = ("pyramid.sights.lateral.", "features.sighted.4.")
"""Of a detector that was just added, these are zero; the rest is as in the new checkpoint."""


def average(old: Captioner, new: Captioner, share: float) -> Captioner:
    """The new captioner with weights `share` * new + (1 - share) * old."""
    regions = replace(old.config.regions, detector=new.config.regions.detector)
    if replace(old.config, regions=regions) != new.config:
        raise ConfigError(f"other sizes or switches: {old.config} and {new.config}")
    before, after = old.state_dict(), new.state_dict()
    for name, tensor in after.items():
        if name in before and torch.equal(before[name], tensor):
            continue  # frozen: rounding would make it another one
        silent = tensor * 0 if name.startswith(SILENT) else tensor
        after[name] = share * tensor + (1 - share) * before.get(name, silent)
    new.load_state_dict(after)
    return new


def main() -> None:
    """Read two checkpoints, write their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--new", type=float, default=0.7, dest="share", help="share of NEW, 0..1")
    options = parser.parse_args()
    old = load_checkpoint(options.old)
    new = average(old, load_checkpoint(options.new), options.share)
    frozen = Captioner(new.config)
    frozen.load_imagenet()
    published = frozen.state_dict()
    parts = ("trunk.", "features.classifier.")
    same = [
        name
        for name, tensor in new.state_dict().items()
        if name.startswith(parts) and bool((tensor == published[name]).all())
    ]
    text = (options.new / TOKENIZER).read_text()
    save_checkpoint(options.out, new, tokenizer_json=text, half=True, left_out=same)


if __name__ == "__main__":
    main()
