"""An edited model card is taken into the manifest, and nothing else changes."""

import importlib.util
import shutil

import pytest

from ureca.bundle import load_manifest, verify_files


@pytest.fixture
def tool(repository):
    spec = importlib.util.spec_from_file_location("set_card", repository / "tools" / "set_card.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manifest_vouches_for_the_new_card(repository, tool, tmp_path):
    shipped = repository / "models" / "pretrained" / "ureca-nano"
    if not (shipped / "manifest.json").is_file():
        pytest.skip("no bundle is shipped")
    bundle = shutil.copytree(shipped, tmp_path / "bundle")
    (tmp_path / "card.md").write_text("# another card\n")
    before = load_manifest(bundle)
    tool.set_card(bundle, tmp_path / "card.md")
    after = load_manifest(bundle)
    verify_files(bundle, after)
    assert (bundle / "MODEL_CARD.md").read_text() == "# another card\n"
    assert (bundle / "checkpoint" / "MODEL_CARD.md").read_text() == "# another card\n"
    assert after.graphs == before.graphs
    assert {s.file for s in after.extra_files} == {s.file for s in before.extra_files}
