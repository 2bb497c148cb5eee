"""The self-test at start-up: what it accepts, and each way in which a bundle may have changed."""

import json
import shutil

import msgspec
import pytest

from ureca.bundle import file_spec, load_manifest, write_manifest
from ureca.errors import BundleError
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.self_test import (
    GOLDEN,
    measure_word_agreement,
    read_regions,
    run_self_test,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def rewritten(folder, **changes):
    """The manifest vouches for whatever lies in the folder now."""
    manifest = load_manifest(folder)
    extra = tuple(file_spec(folder, spec.file) for spec in manifest.extra_files)
    fields = {"extra_files": extra, **changes}
    write_manifest(folder, msgspec.structs.replace(manifest, **fields))


def test_a_fresh_bundle_says_all_of_its_words_again(tiny_bundle):
    assert run_self_test(load_engine(tiny_bundle, threads=1), tiny_bundle) == 1.0
    regions = read_regions(tiny_bundle / GOLDEN)
    assert len(regions) == 9
    assert {region.style for region in regions} == {"short", "long"}


def test_other_words_are_refused_with_the_remedy(bundle):
    rows = json.loads((bundle / GOLDEN).read_text())
    for row in rows:
        row["text"] = "something else entirely"
    (bundle / GOLDEN).write_text(json.dumps(rows))
    rewritten(bundle)
    with pytest.raises(BundleError, match="no longer says") as refused:
        load_engine(bundle, threads=1)
    assert "ureca verify" in str(refused.value)
    assert "'something else entirely' became" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"runtime": "tensorrt", "runtime_version": "10.3"}, "made for tensorrt 10.3 on any"),
        ({"target": "sm_87"}, "on sm_87"),
    ],
)
def test_a_bundle_for_another_place_is_refused_with_the_command(bundle, changes, told):
    rewritten(bundle, **changes)
    with pytest.raises(BundleError, match=told) as refused:
        load_engine(bundle, threads=1)
    assert "--runtime auto" in str(refused.value)


@pytest.mark.parametrize("text", ["{}", "[{}]", "nonsense"])
def test_a_self_test_without_regions_is_refused(bundle, text):
    (bundle / GOLDEN).write_text(text)
    rewritten(bundle)
    with pytest.raises(BundleError, match="no regions for the self-test"):
        load_engine(bundle, threads=1)


def test_a_picture_that_is_none_is_refused(bundle):
    (bundle / "golden.png").write_bytes(b"not a picture")
    rewritten(bundle)
    with pytest.raises(BundleError, match="not an image"):
        load_engine(bundle, threads=1)


def test_regions_of_another_picture_are_refused(bundle):
    rows = json.loads((bundle / GOLDEN).read_text())
    rows[0]["size"] = [2, 2]
    (bundle / GOLDEN).write_text(json.dumps(rows))
    rewritten(bundle)
    with pytest.raises(BundleError, match="do not fit"):
        load_engine(bundle, threads=1)


def test_words_are_compared_place_by_place():
    assert measure_word_agreement(["a red cup", ""], ["a red mug", ""]) == pytest.approx(2 / 3)
    assert measure_word_agreement(["a cup"], ["a cup with a handle"]) == pytest.approx(2 / 5)
    assert measure_word_agreement([""], [""]) == 1.0
