"""The Foxglove layout fits what a recording holds. Foxglove itself is not run: its own Python
package knows the options of its panels, and the paths are followed in a real recording.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ureca.node.cli.run import main
from ureca.testing import ScriptedEngine

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = json.loads((ROOT / "configs" / "foxglove" / "ureca.json").read_text("utf-8"))
PANELS = LAYOUT["configById"]
_PATH = re.compile(r'(?P<topic>/[\w/]+)(?:\{(?P<key>\w+)=="(?P<value>[^"]+)"\})?(?P<rest>\S*)')


def leaves(node):
    """The panels of the split screen, in order."""
    if isinstance(node, str):
        return [node]
    assert node["direction"] in {"row", "column"}
    assert 0 < node["splitPercentage"] < 100
    return [*leaves(node["first"]), *leaves(node["second"])]


def paths():
    """Every message path of the layout."""
    for config in PANELS.values():
        if "topicPath" in config:
            yield config["topicPath"]
        yield from (path["value"] for path in config.get("paths", ()))


def test_every_panel_is_on_the_screen_once():
    assert sorted(leaves(LAYOUT["layout"])) == sorted(PANELS)


def test_foxgloves_own_package_knows_every_option():
    layouts = pytest.importorskip(
        "foxglove.layouts", reason="options not compared with Foxglove's: pip install foxglove-sdk"
    )

    def known(kind, given):
        options = getattr(layouts, kind)()._to_dict()
        assert given.keys() <= options.keys(), f"{kind} has no {given.keys() - options.keys()}"

    for name, config in PANELS.items():
        kind = name.split("!")[0]
        own = {key: value for key, value in config.items() if key != "foxglovePanelTitle"}
        known(f"{kind}Config", own)
        known("ImageModeConfig", own.get("imageMode", {}))
        for series in own.get("paths", ()):
            known("PlotSeries", series)


def follow(message, rest):
    """The value that `.a.b[:]` of a message path names."""
    for step in re.findall(r"\.(\w+)|\[(:)\]", rest):
        message = message[step[0]] if step[0] else message[0]
    return message


@pytest.mark.long
@pytest.mark.timeout(400)  # the whole demo clip, 20 s of two cores, maybe beside much else
def test_every_path_leads_to_something_in_a_recording(tmp_path):
    mcap = pytest.importorskip("mcap.reader", reason="no recording was looked at: ureca[record]")
    if not (ROOT / "configs" / "demo").is_dir():
        pytest.skip("no demo clip in configs/demo")
    file = tmp_path / "run.mcap"
    where = [f"--set=publish.{key}=ipc://{tmp_path}/{key}" for key in ("events", "requests")]
    options = [
        "--no-realtime",
        "--quiet",
        "--record",
        str(file),
        "--set",
        "publish.heartbeat_s=0.1",
    ]
    main([*options, *where], engine_of=lambda _: ScriptedEngine())
    messages, schemas = {}, {}
    with file.open("rb") as stream:
        for schema, channel, message in mcap.make_reader(stream).iter_messages():
            schemas[channel.topic] = schema.name
            messages.setdefault(channel.topic, []).append(json.loads(message.data))

    mode = PANELS["Image!ureca-picture"]["imageMode"]
    assert schemas[mode["imageTopic"]] == mode["imageSchemaName"]
    assert {schemas[topic] for topic in mode["annotations"]} == {"foxglove.ImageAnnotations"}
    assert len(list(paths())) == 6
    for path in paths():
        found = _PATH.fullmatch(path)
        assert found, f"{path} is no message path that this test can read"
        fitting = [
            m
            for m in messages[found["topic"]]
            if not found["key"] or m[found["key"]] == found["value"]
        ]
        assert fitting, f"{path}: no such message"
        assert follow(fitting[-1], found["rest"]) is not None, path
