"""The page's own reading of masks, against ours, where there is a JavaScript engine outside of a
browser.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from ureca.protocol import rle

SCRIPT = """
import { label } from "./rle.mjs";
let text = ""; for await (const part of process.stdin) text += part;
const found = JSON.parse(text).map(({ counts, w, h }) => {
  const labels = new Uint8Array(w * h); label(labels, w, h, counts, 7); return Array.from(labels);
});
console.log(JSON.stringify(found));
"""


def test_the_page_reads_masks_as_we_do(repository, rng, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node.js: that the page decodes masks right was not proven outside Chromium")
    masks = [rng.random((h, w)) < p for h, w, p in ((7, 5, 0.5), (40, 60, 0.1), (64, 3, 0.9))]
    blob = np.zeros((120, 160), np.bool_)
    blob[30:90, 100:160] = True
    masks += [blob, np.ones((4, 6), np.bool_), np.eye(9, dtype=np.bool_)]
    page = repository / "node" / "viewer" / "page" / "rle.js"
    shutil.copy(page, tmp_path / "rle.mjs")
    (tmp_path / "check.mjs").write_text(SCRIPT)
    asked = [
        {"counts": rle.encode(m).counts, "w": m.shape[1], "h": m.shape[0]}
        for m in map(np.array, masks)
    ]
    done = subprocess.run(
        [node, "check.mjs"],
        cwd=tmp_path,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    for mask, found in zip(masks, json.loads(done.stdout), strict=True):
        assert np.array_equal(np.array(found, np.uint8).reshape(mask.shape), 7 * mask)
