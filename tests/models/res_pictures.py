"""Pictures of coloured things as a data folder, and a rig that answers by colour."""

import gzip
import json

import cv2
import numpy as np

from ureca.models.evaluation.res.cli import Rig
from ureca.models.evaluation.res.options import parse
from ureca.models.runtime.grounding import PLAIN_WEIGHTS
from ureca.protocol import rle
from ureca.testing import ScriptedEngine, SyntheticSource

FRAMES = 6


def source():
    return SyntheticSource(frames=FRAMES, things=4)


def region_row(key, name, mask, **fields):
    code = rle.encode(mask)
    y, x = np.nonzero(mask)
    return {
        "region_id": f"{key}_{name}",
        "image_key": key,
        "bbox": [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1],
        "rle": {"size": list(code.size), "counts": code.counts},
        "mask_source": "gt:test",
        "expressions": [f"a {name} thing"],
        **fields,
    }


def write_lines(path, rows):
    with gzip.open(path, "wt", encoding="utf8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def write_pictures(folder):
    """Pictures of coloured things; yellow is shown in no picture with an odd number."""
    (folder / "images").mkdir()
    rows = []
    for seq in range(FRAMES):
        image, masks = source().image(seq), source().masks(seq)
        if seq % 2:
            image[masks.pop("yellow")] = (96, 100, 104)
        cv2.imwrite(str(folder / "images" / f"view{seq}.png"), image[..., ::-1])
        flags = {"red": {"part": True}, "blue": {"group": True}}
        rows += [region_row(f"view{seq}", n, m, **flags.get(n, {})) for n, m in masks.items()]
    write_lines(folder / "regions-test.jsonl.gz", rows)


def options(*words):
    return parse(["--bundle", "none", *map(str, words)])


def rig(chosen):
    return Rig.over(ScriptedEngine(), PLAIN_WEIGHTS, chosen)
