"""What the doctor says of machines that are not this one, and of this one."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys

import pytest
import zmq

from ureca.node.doctor import check_machine, check_software, check_video, sources_cli
from ureca.node.doctor.cameras import CameraDevice, cameras
from ureca.node.doctor.cli import main
from ureca.node.doctor.findings import Finding, examine, plain

CAPTURE, METADATA, OWN = 0x1, 0x00800000, 0x80000000


def _capability(card, caps):
    return struct.pack("16s32s32s3I12x", b"uvcvideo", card, b"usb-1", 0, OWN | 0x1, caps)


@pytest.fixture
def devices(tmp_path):
    for name in ("video10", "video2", "video3", "videonotes"):
        (tmp_path / name).touch()

    def query(path):
        if path.name == "video10":
            raise PermissionError(errno.EACCES, "Permission denied")
        if path.name == "video3":
            return _capability(b"HD Camera", METADATA)
        return _capability(b"HD \x1b[31mCamera", CAPTURE)

    return cameras(tmp_path, query=query)


def test_cameras_are_those_that_capture_in_the_order_of_their_numbers(devices, tmp_path):
    assert [camera.uri for camera in devices] == [
        f"v4l2://{tmp_path}/video2",
        f"v4l2://{tmp_path}/video10",
    ]
    assert devices[0].name == "HD [31mCamera"  # no escape sequence reaches the terminal
    assert devices[0].readable
    assert devices[1].trouble == "Permission denied"


def test_a_camera_that_may_not_be_opened_has_a_remedy(devices):
    ok, bad = check_machine.camera_access(devices)
    assert (ok.state, bad.state) == ("ok", "bad")
    assert "usermod -aG video" in bad.remedy


def test_no_camera_is_no_fault():
    (finding,) = check_machine.camera_access([])
    assert finding.state == "absent"


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on():
    def broken():
        raise RuntimeError("no such thing")

    found = list(examine([("a", broken), ("b", lambda: Finding("b", "ok", "fine"))]))
    assert [finding.state for finding in found] == ["bad", "ok"]
    assert "no such thing" in found[0].said
    assert plain(found)["ready"] is False


@pytest.mark.parametrize(("state", "expected"), [((True, 0.4), "ok"), ((False, 0.0), "warn")])
def test_the_clock_is_synchronised_or_not(state, expected):
    assert check_machine.clock_sync(state).state == expected


def test_this_machines_clock_can_be_asked():
    assert check_machine.clock_sync().state in {"ok", "warn"}


def test_the_processor_is_read_from_files(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    governor = tmp_path / "cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    first, second = check_machine.processor(tmp_path / "cpuinfo", tmp_path)
    assert "avx512_vnni" in first.said
    assert second.state == "warn"


def test_shared_memory_that_is_not_there_is_an_option(tmp_path):
    assert check_machine.shared_memory(tmp_path / "none").state == "absent"
    assert check_machine.shared_memory(tmp_path).state in {"ok", "warn"}


def test_extras_name_the_packages_that_they_lack():
    lacks = check_software._missing(
        ["numpy>=1", 'zmq-that-is-not>=2; extra == "node"', 'numpy>=1; extra == "bench"']
    )
    assert lacks == {"node": ["zmq-that-is-not"], "bench": []}


def test_a_taken_port_is_told_apart_from_a_free_one():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        taken = f"tcp://127.0.0.1:{port}"
        (finding,) = [f for f in check_software.ports(taken, taken) if f.name == "events"]
        assert finding.state == "bad"
        assert "publish.events=" in finding.remedy
    (free,) = [f for f in check_software.ports(taken, taken) if f.name == "events"]
    assert free.state == "ok"


def test_a_node_that_runs_there_is_recognised():
    finding = check_software._taken("events", "tcp://127.0.0.1:5601", "in use", "ureca-nano")
    assert finding.state == "warn"
    assert "ureca-nano" in finding.said


def test_an_altered_bundle_is_bad_and_says_how_to_mend_it(tmp_path):
    finding = check_software.captioner(str(tmp_path))
    assert finding.state == "bad"
    assert "ureca export" in finding.said


def test_a_server_is_opened_and_not_asked(tmp_path):
    pytest.importorskip("openai", reason="asking servers needs the extra `server`")
    path = tmp_path / "server.yaml"
    path.write_text("url: http://127.0.0.1:9/v1\nmodel: some-vlm\n")
    finding = check_software.captioner(str(path))
    assert (finding.state, finding.said) == ("ok", "some-vlm of a server, which was not asked")


def test_the_command_ends_with_one_when_something_is_bad(tmp_path, capsys):
    free = ["--events", f"ipc://{tmp_path}/e", "--requests", f"ipc://{tmp_path}/r"]
    assert main(["--bundle", str(tmp_path), "--json", *free]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is False
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert states["captioner"] == "bad"
    assert states["python"] == states["events"] == "ok"


def test_sources_lists_cameras_and_the_demo_clip(monkeypatch, capsys):
    found = [CameraDevice("v4l2:///dev/video0", "HD Camera", "usb-1")]
    monkeypatch.setattr(sources_cli, "cameras", lambda: found)
    assert sources_cli.main(["--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["uri"] == "v4l2:///dev/video0"
    assert sources_cli.main([]) == 0
    assert "HD Camera" in capsys.readouterr().out


def test_codecs_and_protocols_of_this_machine_are_listed():
    found = {finding.name: finding for finding in check_video.video()}
    for name in ("h264", "hevc", "av1", "mpeg2video", "mjpeg"):
        assert name in found["video"].said
    for name in ("rtsp", "hls", "http", "rtmp", "udp", "srt"):
        assert name in found["protocols"].said
    assert all(finding.state == "ok" for finding in found.values())


def test_the_doctor_needs_nothing_but_the_client(repository, tmp_path):
    """Where only the client is installed it says what is missing instead of failing."""
    code = """
import sys
for name in ("av", "cv2", "onnxruntime", "tokenizers", "rich", "tqdm"):
    sys.modules[name] = None
from ureca.node.doctor import cli as command, sources_cli as sources
sources.main([])
sys.exit(command.main(sys.argv[1:]))
"""
    free = ["--events", f"ipc://{tmp_path}/e", "--requests", f"ipc://{tmp_path}/r"]
    done = subprocess.run(
        [sys.executable, "-c", code, *free],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'ureca[node]'" in done.stdout
    assert "to mend before the node can run" in done.stdout
