from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.errors import BundleError, ConfigError, RegionError, SourceError
from ureca.models.runtime.pretrained import find_bundle
from ureca.node.cli.describe import main
from ureca.testing import ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), SOURCE.image(0)[..., ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), SOURCE.masks(0)["red"].astype(np.uint8) * 255)
    cv2.imwrite(str(tmp_path / "small.png"), np.full((4, 4), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((120, 160), np.uint8))
    return path


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv], engine_of=lambda folder: ScriptedEngine(max_regions=2))


def test_masks_boxes_and_points_are_captioned(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = ",".join(map(str, SOURCE.boxes_xyxy_px(0)["green"]))
    x0, y0, x1, y1 = SOURCE.boxes_xyxy_px(0)["blue"]
    point = f"{(x0 + x1) / 2},{(y0 + y1) / 2}"
    mask = picture.with_name("mask.png")
    assert run(picture, "--mask", mask, "--box", box, "--point", point, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["a red thing", "a green thing", "a blue thing"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], ConfigError),
        (["--box", "1,2,3"], RegionError),
        (["--box", "a,b,c,d"], RegionError),
        (["--box", "30,30,10,10"], RegionError),
        (["--point", "900,900"], RegionError),
        (["--mask", "small.png"], RegionError),
        (["--mask", "black.png"], RegionError),
        (["--mask", "missing.png"], SourceError),
    ],
)
def test_bad_regions_are_typed_errors(
    picture: Path, arguments: list[str], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    with pytest.raises(error):
        run(picture, *arguments)


def test_a_bad_picture_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 cut off")
    for name in ("bad.jpg", "missing.jpg"):
        with pytest.raises(SourceError, match=name):
            run(tmp_path / name, "--point", "1,1")


def test_texts_say_which_regions_they_are_true_of(
    picture: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    boxes = SOURCE.boxes_xyxy_px(0)
    given = [x for name in ("green", "blue") for x in ("--box", ",".join(map(str, boxes[name])))]
    assert run(picture, *given, "--text", "a green thing", "--text", "the leftmost thing") == 0
    green, left = capsys.readouterr().out.splitlines()
    assert green.startswith(f"a green thing: box {given[1]} (0.9")
    assert left.startswith("the leftmost thing: box ")
    out = tmp_path / "drawn.png"
    cut = ("--segmenter", "scripted", "--json", "--render", out)
    assert run(picture, "--text", "a red thing", "--text", "a purple mug", *cut) == 1
    red, none = map(json.loads, capsys.readouterr().out.splitlines())
    assert [tuple(one["box"]) for one in red["regions"]] == [boxes["red"]]
    assert (none["regions"], none["none"] > 0.9) == ([], True)
    assert out.stat().st_size > 100


def test_the_mask_head_of_the_bundle_cuts_where_no_region_is_given(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_bundle() is None:
        pytest.skip("no shipped bundle here")
    assert run(picture, "--text", "a red thing") == 0
    assert capsys.readouterr().out.startswith("a red thing: cut ")


def test_a_text_without_anything_to_ask_is_refused(picture: Path, tmp_path: Path) -> None:
    shipped = find_bundle()
    if shipped is None:
        pytest.skip("no shipped bundle here")
    manifest = json.loads((shipped / "manifest.json").read_text())
    del manifest["mask_head"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"has no mask head.*--segmenter"):
        run(picture, "--text", "a red thing", "--bundle", tmp_path)
    with pytest.raises(RegionError, match="has a word"):
        run(picture, "--text", " . ", "--segmenter", "scripted")


def test_attributes_are_answered_beside_the_caption(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = ("--mask", picture.with_name("mask.png"))
    assert run(picture, *mask, "--attributes", "colour, material,hair,age") == 0
    caption, *lines = capsys.readouterr().out.splitlines()
    assert caption.endswith(": a red thing")
    assert lines == [
        "  colour: red (0.90)",
        "  material: abstained (0.30)",
        "  hair: not supported",
        "  age: not supported",
    ]
    assert run(picture, *mask, "--attributes", "age", "--person-words", "full", "--json") == 0
    (age,) = json.loads(capsys.readouterr().out)["attributes"]
    assert age == {"name": "age", "status": "said", "text": "young", "probability": 0.9}


def test_a_dense_caption_adds_what_is_known(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = ("--mask", picture.with_name("mask.png"))
    assert run(picture, *mask, "--style", "dense", "--person-words", "full") == 0
    assert capsys.readouterr().out.endswith(": a red thing, young\n")
    assert run(picture, *mask, "--style", "dense") == 0
    assert capsys.readouterr().out.endswith(": a red thing\n")


def test_attributes_are_refused_by_name_and_by_bundles_without_them(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = ["--mask", str(picture.with_name("mask.png"))]
    for name, why in (("skin", "ethnicity"), ("weight", "expected attributes of category")):
        with pytest.raises(SystemExit):
            run(picture, *mask, "--attributes", name)
        assert why in capsys.readouterr().err
    for asked in (["--attributes", "colour"], ["--style", "dense"]):
        with pytest.raises(BundleError, match="answers no attributes"):
            main([str(picture), *mask, *asked], engine_of=lambda _: ScriptedEngine(attributes=()))
