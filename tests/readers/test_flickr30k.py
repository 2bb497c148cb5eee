"""Flickr30k Entities: its XML, its marked sentences, its lists of splits."""

import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, picture
from ureca.errors import SourceError

XML = """<annotation>
<filename>1000092795.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
<segmented>0</segmented>
{objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>
<ymax>{3}</ymax></bndbox></object>"""
SENTENCES = """\
[/EN#283585/people Two young guys] with [/EN#283590/bodyparts shaggy hair] on [/EN#283587/other it]
[/EN#283585/people They] are in [/EN#283588/scene the yard] on [/EN#0/notvisual a sunny day] .
[/EN#283585/people Two men in green shirts with long dark hair] take [/EN#283587/other A Cup] .
"""


ENTITY = OBJECT.format(1, 1, 5, 5, name="283585")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "Flickr30kEntities"
    (root / "Annotations").mkdir(parents=True)
    (root / "Sentences").mkdir()
    objects = [
        OBJECT.format(1, 1, 10, 20, name="283585"),
        OBJECT.format(31, 1, 40, 20, name="283585"),
        OBJECT.format(5, 5, 8, 8, name="283587"),
        "<object><name>283588</name><scene>1</scene><nobndbox>0</nobndbox></object>",
        OBJECT.format(12, 12, 15, 15, name="283590</name><name>283591"),
    ]
    text = XML.format(width=WIDTH, height=HEIGHT, objects="\n".join(objects))
    (root / "Annotations" / "1000092795.xml").write_text(text)
    (root / "Sentences" / "1000092795.txt").write_text(SENTENCES)
    picture(tmp_path / "images" / "1000092795.jpg")
    return root


def test_entities_are_regions(tmp_path, root, imported):
    made = imported("flickr30k", root, "--pictures", tmp_path / "images")
    guys = made.records["flickr30k_1000092795_283585"]
    assert guys.short == ("two young guys",)  # "they" is no caption
    assert guys.long == ("two men in green shirts with long dark hair",)
    assert (guys.types, guys.group, guys.part) == (("people",), True, False)
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[:20, :10] = expected[:20, 30:40] = True
    assert np.array_equal(made.mask("flickr30k_1000092795_283585"), expected)
    cup = made.records["flickr30k_1000092795_283587"]
    assert (cup.short, cup.part, cup.group) == (("a cup",), False, False)
    assert cup.box_xywh_px == (4, 4, 4, 4)
    hair = made.records["flickr30k_1000092795_283590"]  # two entities in one box
    assert (hair.types, hair.part) == (("bodyparts",), True)
    assert made.left_out == {"no box": 1}  # the yard
    (listed,) = made.data.images
    assert listed.photo_id == "1000092795"
    assert listed.captions[1] == "They are in the yard on a sunny day ."
    assert "research" in listed.license


def test_the_lists_say_the_split(tmp_path, root, imported):
    (root / "train.txt").write_text("1\n2\n")
    (root / "test.txt").write_text("1000092795\n")
    made = imported("flickr30k", root, "--pictures", tmp_path / "images", "--split", "test")
    assert {r.split for r in made.records.values()} == {"test"}


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "9">]>' + XML.format(width="&b;", height=3, objects=ENTITY),
        "<annotation><size>",
        "<annotation/>",
        XML.format(width="w", height=3, objects=""),
        XML.format(width=3, height=3, objects=OBJECT.format("x", 1, 2, 3, name=1)),
    ],
)
def test_wrong_files_are_counted(tmp_path, root, imported, text):
    (root / "Annotations" / "1.xml").write_text(text)
    (root / "Sentences" / "1.txt").write_text(SENTENCES)
    made = imported("flickr30k", root, "--pictures", tmp_path / "images")
    assert made.left_out == {"no box": 1, "malformed": 1}


def test_another_folder_is_refused(tmp_path, imported):
    with pytest.raises(SourceError, match="Annotations"):
        imported("flickr30k", tmp_path, "--pictures", tmp_path)
