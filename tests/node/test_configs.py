from __future__ import annotations

from pathlib import Path

import pytest

from ureca.config import load_config
from ureca.node.config import NodeConfig

FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "node").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_node_configuration_loads(path: Path) -> None:
    assert load_config(NodeConfig, path) != NodeConfig()
