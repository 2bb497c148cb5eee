"""Folders are written whole or not at all; WebDataset shards and back; the package reads them."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from tests.readers.test_coco import CATEGORIES, SQUARE, image, region
from ureca.errors import ConfigError, SourceError
from ureca.models.data.cli import main
from ureca.models.data.folders import read_folders
from ureca.models.data.images import ImageRecord
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.data.shards import FolderWriter, ShardSample, read_samples


@pytest.fixture
def coco(tmp_path):
    """Seven pictures with two regions each, and the words that import them."""
    for number in range(7):
        picture(tmp_path / "val2017" / f"{number:012d}.jpg", 30 * number)
    content = {
        "images": [image(number, f"{number:012d}.jpg") for number in range(7)],
        "annotations": [region(number, number // 2, [SQUARE]) for number in range(14)],
        "categories": CATEGORIES,
    }
    file = dump(tmp_path / "instances.json", content)
    return ("coco", file, "--pictures", tmp_path / "val2017")


def content(root):
    """Everything that a folder holds, with the bytes of its pictures."""
    data = read_folders([root])
    store = ImageStore([root / "images"])
    return (
        data.records,
        data.images,
        {record.image_key: store.read_encoded(record.image_key) for record in data.records},
    )


def test_shards_hold_equal_records_and_are_a_data_folder(tmp_path, coco, imported, capsys):
    root = imported(*coco).root
    assert main(["shards", str(root), "-o", str(tmp_path / "shards")]) == 0
    assert content(tmp_path / "shards") == content(root)
    capsys.readouterr()
    again = imported("webdataset", tmp_path / "shards" / "images", out="again")
    assert content(again.root) == content(root)
    assert again.left_out == {}
    direct = imported(*coco, "--webdataset", out="direct")
    assert content(direct.root) == content(root)
    (tar,) = (direct.root / "images").iterdir()
    with tarfile.open(tar) as members:
        names = members.getnames()
    assert names[:2] == ["mscoco_000000000000.jpg", "mscoco_000000000000.json"]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
def test_the_package_webdataset_reads_them(tmp_path, coco, imported):
    webdataset = pytest.importorskip("webdataset", reason="the package itself was not tried")
    made = imported(*coco, "--webdataset")
    (tar,) = (made.root / "images").iterdir()
    found = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8"))
    assert len(found) == 7
    for sample in found:
        key = sample["__key__"]
        assert np.array_equal(sample["jpg"].shape, (HEIGHT, WIDTH, 3))
        records = [RegionRecord.from_json(row) for row in sample["json"]["regions"]]
        assert records == [r for r in made.data.records if r.image_key == key]
        (listed,) = (i for i in made.data.images if i.image_key == key)
        assert ImageRecord.from_json(sample["json"]["image"]) == listed


def test_equal_content_is_equal_bytes_in_shards_of_the_wanted_size(tmp_path, coco, imported):
    big = imported(*coco, out="a").root
    assert [p.name for p in (big / "images").iterdir()] == ["coco-train-000.tar"]
    again = imported(*coco, out="b").root
    for path in big.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(big)).read_bytes(), path
    with FolderWriter(tmp_path / "c", name="x", shard_bytes=1) as writer:
        for record in read_folders([big]).images:
            writer.add(ShardSample(record, b"\xff\xd8" + b"0" * 9, ()))
    assert len(list((tmp_path / "c" / "images").iterdir())) == 7


def test_limit_and_table(tmp_path, coco, capsys):
    out = tmp_path / "few"
    assert main(["import", *map(str, coco), "-o", str(out), "--limit", "2"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 pictures, 4 regions\n"


def test_what_is_there_is_not_overwritten(tmp_path, coco, imported):
    imported(*coco)
    with pytest.raises(ConfigError, match="is there already"):
        imported(*coco)
    (tmp_path / "empty").mkdir()
    imported(*coco, out="empty")
    with pytest.raises(SystemExit):
        imported(*coco, "--shard-mb", 0, out="x")


def test_a_run_that_fails_leaves_nothing(tmp_path, coco, imported, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(SourceError, match=r"No space left.*make room"):
        imported(*coco)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_folder(tmp_path, coco, number):
    """The run waits at the last picture until it is killed."""
    last = tmp_path / "val2017" / f"{6:012d}.jpg"
    last.unlink()
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "from ureca.models.data.readers import core\n"
        "read = core._read_encoded\n"
        "def slow(name, folders):\n"
        "    if name.startswith('000000000006'): print('here', flush=True); time.sleep(600)\n"
        "    return read(name, folders)\n"
        "core._read_encoded = slow\n"
        "from ureca.cli import main; sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["data", "import", *map(str, coco), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, env=dict(os.environ)
    ) as run:
        assert run.stdout.readline() == b"here\n"
        (draft,) = tmp_path.glob(".out.part-*")
        assert (draft / "images" / "coco-train-000.tar").is_file()
        run.send_signal(number)
        run.wait(60)
    assert not (tmp_path / "out").exists()
    left = list(tmp_path.glob(".out.part-*"))
    assert left == ([draft] if number == signal.SIGKILL else [])
    picture(last)
    done = subprocess.run(
        [sys.executable, "-m", "ureca", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (str(left[0]) in done.stderr) if left else ("part-" not in done.stderr)
    assert len(read_folders([tmp_path / "out"]).records) == 14


def test_scenes_of_a_world_come_along(tmp_path, coco, imported):
    root = imported(*coco).root
    (root / "scenes-train.jsonl.gz").write_bytes(b"as it is")
    assert main(["shards", str(root), "-o", str(tmp_path / "shards")]) == 0
    assert (tmp_path / "shards" / "scenes-train.jsonl.gz").read_bytes() == b"as it is"


def sample_of(root, **changes):
    data = read_folders([root])
    record = data.records[0]
    listed = next(i for i in data.images if i.image_key == record.image_key)
    row = {"image": listed.to_json() | changes, "regions": [record.to_json()]}
    return ImageStore([root / "images"]).read_encoded(record.image_key), json.dumps(row).encode()


def shard(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_strange_shards_are_counted(tmp_path, coco, imported):
    root = imported(*coco, "--limit", 1).root
    encoded, text = sample_of(root)
    bad_mask = json.loads(text)
    bad_mask["regions"][0]["rle"]["counts"] = "~~"
    other = json.loads(text)
    other["regions"][0]["image_key"] = "another"
    path = shard(
        tmp_path / "x.tar",
        *(("folder/a.jpg", encoded), ("folder/a.json", text)),
        *(("b.jpg", encoded), ("c.json", text)),
        *(("d.jpg", b"no picture"), ("d.json", text)),
        *(("e.jpg", encoded), ("e.json", b"[" * 99_999)),
        *(("f.jpg", encoded), ("f.json", json.dumps(bad_mask).encode())),
        *(("g.jpg", encoded), ("g.json", sample_of(root, split="../../x")[1])),
        *(("h.jpg", encoded), ("h.json", sample_of(root, width=5)[1])),
        *(("i.jpg", encoded), ("i.json", json.dumps(other).encode())),
    )
    again = imported("webdataset", path, out="again")
    assert again.left_out == {
        "sample without picture or json": 2,
        "wrong picture size": 2,
        "broken picture": 1,
        "malformed": 1,
        "bad mask": 1,
        "bad picture name": 1,
    }
    assert list(again.records) == ["coco_0"]
    (tmp_path / "y.tar").write_bytes(b"no tar" * 999)
    with pytest.raises(SourceError, match="cannot read shard"):
        list(read_samples(tmp_path / "y.tar", max_bytes=9))
    assert next(read_samples(path, max_bytes=9)) == ("a", b"", b"")
    with pytest.raises(SourceError, match=r"no \*\.tar"):
        imported("webdataset", tmp_path / "val2017", out="none")


TEXT = st.text(max_size=12)


@given(
    st.builds(
        RegionRecord,
        region_id=TEXT,
        image_key=TEXT,
        shard=TEXT,
        source=TEXT,
        height=st.integers(1, 99),
        width=st.integers(1, 99),
        counts=TEXT,
        box_xywh_px=st.tuples(*[st.floats(0, 99)] * 4),
        mask_source=TEXT,
        category=TEXT,
        short=st.lists(TEXT).map(tuple),
        long=st.lists(TEXT).map(tuple),
        types=st.lists(TEXT).map(tuple),
        part=st.booleans(),
        parent=TEXT,
        license=TEXT,
    )
)
def test_a_record_comes_back_from_its_line(record):
    assert RegionRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_real_data_comes_back(tmp_path, data_root):
    command = ["shards", str(data_root), "-o", str(tmp_path / "s"), "--limit", "20"]
    assert main(command) == 0
    again = read_folders([tmp_path / "s"])
    keys = {record.image_key for record in again.records}
    assert len(keys) == 20
    theirs = read_folders([data_root])
    assert list(again.records) == [r for r in theirs.records if r.image_key in keys]
    assert set(again.images) == {i for i in theirs.images if i.image_key in keys}
    stores = [ImageStore([root / "images"]) for root in (data_root, tmp_path / "s")]
    for key in keys:
        assert stores[0].read_encoded(key) == stores[1].read_encoded(key)
