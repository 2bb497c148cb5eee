"""Regions on the command line, and what is said when there are none."""

from __future__ import annotations

import pytest

from ureca.errors import RegionError, SourceError
from ureca.node.cli.region_options import seeds_of
from ureca.node.cli.run_options import build_parser, resolve_config
from ureca.node.counters import Balance, NodeCounters
from ureca.node.monitoring.run_report import RunReport


def balance() -> Balance:
    return NodeCounters().balance()


def test_boxes_and_points_are_prompts_of_the_first_picture(tmp_path):
    (tmp_path / "p.json").write_text(
        '[{"frame": 0, "point": [9, 9]}, {"frame": 3, "point": [1, 1]}]'
    )
    line = f"--source c.mp4 --box 1,2,3,4 --point 5,6 --prompts {tmp_path}/p.json"
    _, prompts = resolve_config(build_parser().parse_args(line.split()))
    box, point, written = prompts[0]
    assert box.box_xyxy_px == (1, 2, 3, 4)
    assert point.point_xy_px == (5, 6)
    assert written.point_xy_px == (9, 9)
    assert len(prompts[3]) == 1


@pytest.mark.parametrize(("kind", "text"), [("box", "1,2,3"), ("point", "1"), ("point", "a,b")])
def test_a_region_that_is_none_is_refused_with_what_was_expected(kind, text):
    with pytest.raises(RegionError, match=f"--{kind} expects"):
        seeds_of(kind, text)


def test_a_mask_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"none\.png"):
        seeds_of("mask", str(tmp_path / "none.png"))


def test_a_run_without_regions_says_how_to_give_some():
    said = RunReport().text(balance(), seconds=1.0)
    assert "nothing to caption" in said
    assert "--box" in said
