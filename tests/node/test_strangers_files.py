"""Files and tars from strangers as sources: pipes, links, bombs and headers that lie."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.test_sources import encoded, play
from ureca.errors import ConfigError, SourceError
from ureca.node.cli.describe import read_picture
from ureca.node.cli.region_options import seeds_of
from ureca.node.decoding import bounded_files
from ureca.node.decoding.bounded_files import MAX_PICTURE_BYTES, opened_tar, regular_members
from ureca.node.sources.prompt_file import first_frame_mask, load_prompts
from ureca.testing import SyntheticSource

PNG = encoded(".png")


def tar_of(path: Path, *entries: tuple[str, bytes, dict[str, object]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data, more in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_pipes_and_devices_in_a_folder_are_dropped_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    with (tmp_path / "d.png").open("wb") as sparse:
        sparse.truncate(MAX_PICTURE_BYTES + 1)
    (tmp_path / "e.png").symlink_to(tmp_path / "a.png")
    frames, counters, _ = play(tmp_path, fps=10)
    assert [frame.seq for frame in frames] == [0, 4]
    assert counters.balance().frames_dropped == {"decode_error": 3}


@pytest.mark.parametrize(
    "read",
    [read_picture, lambda path: seeds_of("mask", str(path)), load_prompts],
    ids=["describe", "--mask", "--prompts"],
)
def test_every_file_that_is_named_is_regular_and_bounded(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with (tmp_path / "huge").open("wb") as sparse:
        sparse.truncate(1 << 40)
    for name, said in (("pipe", "no regular file"), ("endless", "regular"), ("huge", "at most")):
        with pytest.raises((SourceError, ConfigError), match=said):
            read(tmp_path / name)


def test_links_in_a_tar_are_no_masks(tmp_path: Path) -> None:
    red = SyntheticSource().masks(0)["red"].astype(np.uint8) * 255
    mask = bytes(cv2.imencode(".png", red)[1])
    link = {"type": tarfile.SYMTYPE, "linkname": "../../etc/passwd"}
    own = {"type": tarfile.LNKTYPE, "linkname": "masks/a.png"}
    for more in (link, own):
        path = tar_of(tmp_path / "t.tar", ("frames/0.png", PNG, {}), ("masks/a.png", b"", more))
        assert first_frame_mask(path) == {}
        assert len(play(path)[0]) == 1
    path = tar_of(
        tmp_path / "t.tar",
        ("frames/0.png", PNG, {}),
        ("masks/a.png", b"", link),
        ("masks/b.png", mask, {}),
    )
    assert len(first_frame_mask(path)[0]) == 1


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_tar_is_played_and_a_damaged_one_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tar_of(tmp_path / "t.tar", ("0.png", PNG, {}))
    packed = pack(path.read_bytes())
    path.write_bytes(packed)
    frames, _, _ = play(path)
    assert len(frames) == 1
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SourceError, match="cannot read the tar"):
        play(path)


def test_a_tar_packed_by_zstd_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(b"(\xb5/\xfd" + bytes(100))
    with pytest.raises(SourceError, match=r"compressed by zstd: unpack it"):
        play(path)


def test_a_header_that_says_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, 1 << 31
    with path.open("wb") as file:
        file.write(head.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 32)
    with pytest.raises(SourceError, match="at once"):
        play(path)


def test_the_entries_of_a_tar_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_files, "MAX_MEMBERS", 10)
    path = tar_of(tmp_path / "t.tar", *((f"{n}.png", b"", {}) for n in range(11)))
    with opened_tar(path) as archive, pytest.raises(SourceError, match="more than 10 entries"):
        regular_members(archive)


def test_an_entry_that_is_too_large_is_a_dropped_picture(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    large = tarfile.TarInfo("a.png")
    large.size = MAX_PICTURE_BYTES + 1
    blocks = -(-large.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    with path.open("wb") as file:
        file.write(large.tobuf(tarfile.GNU_FORMAT))
        file.truncate(tarfile.BLOCKSIZE + blocks)
        file.seek(0, os.SEEK_END)
        small = tarfile.TarInfo("b.png")
        small.size = len(PNG)
        file.write(small.tobuf(tarfile.GNU_FORMAT) + PNG)
        file.write(bytes(tarfile.BLOCKSIZE * 4 - len(PNG) % tarfile.BLOCKSIZE))
    frames, counters, _ = play(path)
    assert [frame.seq for frame in frames] == [1]
    assert counters.balance().frames_dropped == {"decode_error": 1}
