"""CompositionCap: masked entities with a text for each attribute, in a file that we made."""

import base64
import gzip

import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from ureca.errors import RegionError
from ureca.models.data.readers.compositioncap import MAX_MASK_CHARS, decode_mask, name_attribute

NAME = "003568437.jpg"


def coded(box=(10, 5, 30, 25), size=(HEIGHT, WIDTH)):
    """A mask as the data set codes it."""
    mask = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    return base64.b64encode(gzip.compress(mask.tobytes())).decode("ascii")


def entity(number, mask=None, **more):
    code = coded() if mask is None else mask
    return {"image": NAME, "id": number, "height": HEIGHT, "width": WIDTH, "mask": code, **more}


def test_entities_with_attributes_are_read(tmp_path, imported):
    picture(tmp_path / "pictures" / NAME)
    told = {"Color": "a red coat", "Body Pose/Gesture": ["standing", "arms crossed"], "Skin": "  "}
    rows = [
        entity(1, attributes=told, caption="a woman in a red coat", split="test"),
        entity(2, mask="!!"),
        entity(3, mask=coded(size=(4, 4)), caption="small"),
        entity(4),
        {"image": NAME},
    ]
    files = (
        dump(tmp_path / "test.json", rows),
        dump(tmp_path / "ids.json", {NAME: "38d66c6c5cafcd63"}),
    )
    made = imported("compositioncap", *files, "--pictures", tmp_path / "pictures")
    one = made.records["compositioncap_1"]
    assert one.attributes == (("colour", ("a red coat",)), ("pose", ("standing", "arms crossed")))
    assert (one.long, one.split) == (("a woman in a red coat",), "test")
    assert made.mask("compositioncap_1").sum() == 400
    assert one.image_key == "openimages_38d66c6c5cafcd63"
    assert made.left_out == {"malformed": 1, "bad mask": 1, "nothing said": 2}
    assert type(one).from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Category Name", "category"),
        ("body pose/gesture", "pose"),
        ("body shape/size", "body_shape"),
        ("Facial Expression", "expression"),
        ("clothing, shoes and accessories", "clothing"),
        ("viewing angle", "viewing_angle"),
        ("Lighting", "lighting"),
    ],
)
def test_names_of_attributes(theirs, ours):
    assert name_attribute(theirs) == ours


def test_a_mask_that_grows_is_not_inflated():
    """A mask says its size; what comes out of gzip is read to that size and no further."""
    bomb = base64.b64encode(gzip.compress(bytes(50 << 20))).decode("ascii")
    with pytest.raises(RegionError, match="expected 2400 bytes"):
        decode_mask(bomb, (HEIGHT, WIDTH), HEIGHT, WIDTH)
    with pytest.raises(RegionError, match="characters"):
        decode_mask("A" * (MAX_MASK_CHARS + 1), (HEIGHT, WIDTH), HEIGHT, WIDTH)
    with pytest.raises(RegionError, match="expected a mask of"):
        decode_mask(coded(), (HEIGHT, WIDTH), HEIGHT, WIDTH + 1)
