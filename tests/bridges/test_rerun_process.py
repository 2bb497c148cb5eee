"""`ureca rerun` beside a live node; what it wrote is read with Rerun's own reader."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.bridges.rerun_rows import columns
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.protocol.events import CaptionFinal

pytest.importorskip("rerun", reason="Rerun was not proven: pip install 'ureca[rerun]'")
cv2 = pytest.importorskip("cv2")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_run_is_in_the_file(processes, tmp_path):
    demo = find_demo_clip()
    if demo is None:
        pytest.skip("no demo clip in configs/demo")
    node = processes.node("--loop", "--set", "scheduler.refresh_s=2")
    path = tmp_path / "run.rrd"
    with processes.client() as client:
        client.hello()
        finals = {}
        rerun = processes.ureca("rerun", "--save", path, "--width", 320)
        until = time.monotonic() + 60
        for event in client.events({"caption.final"}, 60):
            assert isinstance(event, CaptionFinal)
            finals[event.rid, event.captured_ns] = event
            written = path.exists() and path.stat().st_size > 200_000
            if time.monotonic() > until or (written and len(finals) > 40):
                break
        before_ns, after_ns = time.time_ns() - 120 * 10**9, time.time_ns()
    code, _, err = processes.interrupt(rerun)
    assert code == 0, err
    processes.interrupt(node)

    images = columns(path, "/cam0/image")
    assert len(images["frame"]) > 2
    assert images["capture"] == sorted(images["capture"])
    assert all(before_ns < ns < after_ns for ns in images["capture"]), "not in Unix time"
    jpeg = bytes(np.ravel(images["EncodedImage:blob"][0]).astype(np.uint8))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (180, 320, 3)

    masks = columns(path, "/cam0/masks")
    assert masks["frame"] == images["frame"]
    last = np.ravel(masks["SegmentationImage:buffer"][-1]).astype(np.uint8).tobytes()
    values = np.frombuffer(last, np.uint16)
    assert values.size == 180 * 320
    assert np.unique(values).size > 5

    boxes = columns(path, "/cam0/boxes")
    assert any("a red thing" in (labels or []) for labels in boxes["Boxes2D:labels"])

    words = columns(path, "/cam0/captions")
    said = [text[0] for text in words["TextLog:text"]]
    assert len(said) > 5
    known = {f"{e.rid}: {e.text} ({e.score:.2f})" for e in finals.values()}
    assert len(known & set(said)) > 5
    ages = columns(path, "/cam0/latency/age_at_publication")["Scalars:scalars"]
    assert len(ages) == len(said)
    assert all(age[0] > 0 for age in ages)
