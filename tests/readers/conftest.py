"""Small data sets, written as their authors write them, and the command that reads them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from tqdm import tqdm

from ureca.datatypes import Rle
from ureca.models.data.cli import main
from ureca.models.data.folders import read_folders
from ureca.models.data.regions import ImageStore
from ureca.protocol import rle

WIDTH, HEIGHT = 60, 40


@pytest.fixture(autouse=True)
def _no_tqdm_thread(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def picture(path, shade=100, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), shade, np.uint8)
    pixels[:, : size[0] // 2] //= 2
    assert cv2.imwrite(str(path), pixels)
    return path


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


class Imported:
    """A folder that was made, and what was said about it."""

    def __init__(self, root, report):
        self.root, self.report = root, report
        self.data = read_folders([root])
        self.store = ImageStore([root / "images"])

    @property
    def records(self):
        return {record.region_id: record for record in self.data.records}

    @property
    def left_out(self):
        return self.report["left_out"]

    def mask(self, region_id):
        record = self.records[region_id]
        return rle.decode(Rle((record.height, record.width), record.counts))


@pytest.fixture
def imported(tmp_path, capsys):
    """Run `ureca data import`, and check the folder with `ureca data check`."""

    def run(*words, out="out"):
        place = tmp_path / out
        assert main(["import", *map(str, words), "-o", str(place), "--json"]) == 0
        made = Imported(place, json.loads(capsys.readouterr().out))
        assert main(["check", "--json", str(place)]) == 0
        checked = json.loads(capsys.readouterr().out)
        assert checked["faults"] == 0
        assert checked["totals"]["regions"] == len(made.records) == made.report["regions"]
        assert made.report.items() <= json.loads((place / "import.json").read_text()).items()
        return made

    return run
