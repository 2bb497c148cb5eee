from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from ureca.config import from_plain, load_config, to_plain
from ureca.errors import ConfigError


class Mode(Enum):
    FAST = "fast"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Camera:
    uri: str = "0"
    fps: float = 30.0

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str = "node"
    workers: int = 2
    rate: float = 1e-3
    mode: Mode = Mode.FAST
    folder: Path | None = None
    main: Camera = field(default_factory=Camera)
    cameras: tuple[Camera, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)


def test_files_and_overrides_change_only_what_they_name(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text(
        "rate: 3e-4\nmain: {fps: 15}\ncameras: [{uri: a.mp4}]\nmode: full\nfolder: /tmp/x\n"
    )
    config = load_config(Settings, path, ["main.uri=b.mp4", "limits.regions=4", "workers=3"])
    assert config == Settings(
        rate=3e-4,
        workers=3,
        mode=Mode.FULL,
        folder=Path("/tmp/x"),
        main=Camera(uri="b.mp4", fps=15.0),
        cameras=(Camera(uri="a.mp4"),),
        limits={"regions": 4},
    )
    assert from_plain(Settings, to_plain(config)) == config


def test_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(Settings, tmp_path / "empty.yaml") == Settings()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("worker=3", "did you mean 'workers'"),
        ("main.ftp=3", "main: unknown key 'ftp'.*did you mean 'fps'"),
        ("cameras=[{urii: x}]", r"cameras\[0\].*did you mean 'uri'"),
        ("zzz=1", "known are cameras"),
        ("workers=three", "workers: Expected `int`, got `str`"),
        ("workers=true", "workers: Expected `int`, got `bool`"),
        ("main.fps=-1", "fps must be above 0, got -1"),
        ("mode=slow", "mode: Invalid enum value 'slow'"),
        ("main=5", "main: Expected"),
        ("rate=.inf", "rate: expected a finite number"),
        ("workers.x=5", "workers: Expected"),
        ("workers", "expected an override like"),
        ("=5", "expected an override like"),
        ("name=[", "is not YAML"),
    ],
)
def test_mistakes_name_their_place(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(Settings, None, [override])


def test_an_override_cannot_go_below_a_value(tmp_path):
    (tmp_path / "a.yaml").write_text("workers: 2\n")
    with pytest.raises(ConfigError, match="is a value, not a section"):
        load_config(Settings, tmp_path / "a.yaml", ["workers.x=5"])


@pytest.mark.parametrize(
    "text", ["- a\n", "a: [\n", "name: x\nname: y\n", "name: !!python/object:os.system x\n"]
)
def test_files_that_are_no_configuration(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(Settings, tmp_path / "bad.yaml")


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(Settings, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(Settings, tmp_path / "latin.yaml")


def test_every_shipped_config_is_readable(repository):
    from ureca.config import read_yaml

    for path in sorted((repository / "configs").rglob("*.yaml")):
        assert read_yaml(path), path
