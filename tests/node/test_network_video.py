"""Video from the network by one reader: live streams, streams with an end, snapshots."""

from __future__ import annotations

import contextlib
import fractions
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import pytest

from tests.node.inputs_rig import Rig, jpeg, rig, until
from tests.node.video_rig import clip, number_of, numbered, play
from tests.ports import free_port
from ureca.errors import SourceError
from ureca.node.node import Node
from ureca.node.sources.camera_capture import csi_pipeline


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(handler: object) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="http")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_clip_over_http_is_played_by_its_own_times_and_ends(tmp_path: Path, name: str) -> None:
    front = {"movflags": "faststart"} if name == "a.mp4" else {}
    clip(tmp_path / name, 36, container_options=front)
    with served(partial(_Quiet, directory=str(tmp_path))) as address:
        played = play_live(f"{address}/{name}")
    assert [n for n in played if n is not None] == list(range(36))


def play_live(uri: str, **source: object) -> list[int | None]:
    """Numbers of the pictures of a source that ends; its times must be those of its clip."""
    played = play(uri, **source)
    assert played.failure is None
    assert played.times_ms[-1] == pytest.approx(1000 * (len(played.frames) - 1) / 24, abs=60)
    return played.numbers


def test_a_finished_hls_list_ends(tmp_path: Path) -> None:
    clip(
        tmp_path / "list.m3u8",
        48,
        form="hls",
        options={"g": "12"},
        container_options={"hls_time": "0.5", "hls_list_size": "0"},
    )
    assert len(list(tmp_path.glob("*.ts"))) >= 2
    with served(partial(_Quiet, directory=str(tmp_path))) as address:
        numbers = play_live(f"{address}/list.m3u8")
    assert numbers == list(range(48))


def test_a_playlist_from_the_network_reads_no_file(tmp_path: Path) -> None:
    secret = clip(tmp_path / "secret.ts", 12)
    public = tmp_path / "public"
    public.mkdir()
    (public / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    )
    with (
        served(partial(_Quiet, directory=str(public))) as address,
        rig(tmp_path, f"{address}/list.m3u8", read_timeout_s=2.0) as node,
    ):
        until(lambda: "down" in node.reason(), "the refusal")
        assert node.processed == 0


def test_a_node_on_a_clip_over_http_stops_at_its_end(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 24, container_options={"movflags": "faststart"})
    with (
        served(partial(_Quiet, directory=str(tmp_path))) as address,
        rig(tmp_path, f"{address}/a.mp4", open_timeout_s=10.0) as node,
    ):
        assert node.node.wait(60)
        assert isinstance(node.node, Node)
        assert node.processed + sum(node.dropped.values()) == 24
        assert node.counters["source_outages"] == 0


class _Endless(_Quiet):
    """A transport stream without an end, at the rate of its pictures."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            send(self.wfile, 15_000, 25)


def send(
    file: object,
    count: int,
    fps: int,
    form: str = "mpegts",
    stop: threading.Event | None = None,
    **options: str,
) -> None:
    """Numbered pictures in real time into a file, a socket or an address, until `stop` is set."""
    with av.open(file, "w", format=form, options=options) as container:  # type: ignore[call-overload]
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {
            "tune": "zerolatency",
            "g": "10",
            "x264-params": "repeat-headers=1",  # an SDP file need not have them
        }
        begin_s = time.monotonic()
        for number in range(count):
            if stop is not None and stop.is_set():
                break
            time.sleep(max(0.0, begin_s + number / fps - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = number, fractions.Fraction(1, fps)
            container.mux(stream.encode(frame))


def test_a_live_transport_stream_over_http(tmp_path: Path) -> None:
    with served(_Endless) as address, rig(tmp_path, f"{address}/live", read_timeout_s=3.0) as node:
        node.goes_on(10)
        assert "decode_error" not in node.dropped


SESSION = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=a camera
c=IN IP4 127.0.0.1
t=0 0
m=video {port} RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
"""


@pytest.mark.parametrize("scheme", ["udp", "rtp", "sdp"])
def test_streams_that_are_sent_to_the_node(tmp_path: Path, scheme: str) -> None:
    port = free_port() & ~1  # RTP takes even ports
    session = tmp_path / "a camera.sdp"
    session.write_text(SESSION.format(port=port))
    stop = threading.Event()
    sender = threading.Thread(target=_send_to, args=(scheme, port, stop), name="sender")
    uri = {
        "udp": f"udp://@127.0.0.1:{port}",
        "rtp": f"rtp://127.0.0.1:{port}",
        "sdp": str(session),
    }[scheme]
    sender.start()
    try:
        with rig(tmp_path, uri, read_timeout_s=4.0, open_timeout_s=8.0) as node:
            node.goes_on(5)
    finally:
        stop.set()
        sender.join()


def _send_to(scheme: str, port: int, stop: threading.Event) -> None:
    forms = {"udp": "mpegts", "rtp": "rtp_mpegts", "sdp": "rtp"}
    address = {"udp": f"udp://127.0.0.1:{port}?pkt_size=1316"}.get(
        scheme, f"rtp://127.0.0.1:{port}"
    )
    with contextlib.suppress(av.error.FFmpegError, OSError):
        send(address, 15_000, 25, forms[scheme], stop)


def test_a_stop_while_a_stream_is_opened_is_no_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/door"
        node = Rig(tmp_path, address, open_timeout_s=60.0)
        silent.settimeout(100)
        peer, _ = silent.accept()
        node.node.close()
        peer.close()
    assert node.node.heartbeat().counters.get("source_outages", 0) == 0
    assert "left behind" not in caplog.text
    assert "is down" not in caplog.text


def test_a_protocol_that_this_ffmpeg_lacks_is_named(tmp_path: Path) -> None:
    with rig(tmp_path, "srt://127.0.0.1:9", open_timeout_s=2.0) as node:
        until(lambda: "down" in node.reason(), "the outage")
        if "no srt" not in node.reason():
            pytest.skip("this FFmpeg has srt")
        assert "-f mpegts udp://" in node.reason()


class _Snapshots(_Quiet):
    """One JPEG for each request, behind a login; `broken` requests are answered by 503."""

    broken = threading.Event()
    count = 0
    logins: list[str] = []  # noqa: RUF012  (of one test)

    def do_GET(self) -> None:
        _Snapshots.logins.append(self.headers.get("Authorization", ""))
        if not self.headers.get("Authorization"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        if self.broken.is_set():
            self.send_error(503)
            return
        _Snapshots.count += 1
        data = jpeg(_Snapshots.count) + b"bytes of the maker"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_a_snapshot_address_is_polled_without_an_outage_each_time(tmp_path: Path) -> None:
    with served(_Snapshots) as address:
        uri = address.replace("http://", "snapshot+http://user:pass%2Fword@") + "/shot.jpg?pwd=x"
        with rig(tmp_path, uri, fps=20.0) as node:
            node.goes_on(8)
            assert node.counters["source_outages"] == 0
            _Snapshots.broken.set()
            until(lambda: "503" in node.reason(), "the outage")
            assert "word" not in node.reason()
            assert "pwd" not in node.reason()
            _Snapshots.broken.clear()
            node.goes_on(5)
            assert node.counters["source_outages"] == 1


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("udp://host", "PORT"),
        ("csi://cam", "csi://0"),
        ("csi://0?height=3", "go together"),
        ("snapshot+http:///x", "HOST"),
    ],
)
def test_addresses_that_cannot_be_are_refused_at_the_start(uri: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        play(uri)


def test_csi_cameras_by_the_source_of_their_board() -> None:
    uri = "csi://1?width=1280&height=720&fps=30"
    jetson, other = (csi_pipeline(uri, is_tegra=is_tegra) for is_tegra in (True, False))
    assert jetson.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280")
    assert "framerate=30/1" in jetson
    assert other.startswith("libcamerasrc ! video/x-raw,width=1280,height=720,framerate=30/1")
    assert all(line.endswith("sync=false") for line in (jetson, other))
    assert number_of(numbered(5)) == 5
