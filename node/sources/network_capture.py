"""Network streams by FFmpeg in a process of its own, and snapshot addresses that are polled."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit, urlunsplit

from ureca.clock import Clock
from ureca.errors import SourceError
from ureca.node.config import NodeConfig
from ureca.node.decoding.bounded_files import MAX_PICTURE_BYTES
from ureca.node.decoding.video_messages import OpenVideo
from ureca.node.decoding.video_process import DecoderDiedError, VideoProcess
from ureca.node.sources.camera_capture import LOCAL, Capture, RawImage, open_device
from ureca.node.sources.source_uri import SNAPSHOT, hide_secrets, path_of
from ureca.node.sources.video_readers import ClipReader, VideoClip

_SNAPSHOT_FPS = 2.0
_POLL_S = 0.1


class StreamCapture:
    """A stream that FFmpeg reads; see `Capture`. `clip` is set when it has an end: then it is
    played by its own stamps and not read here.

    MJPEG is decoded by our own decoder: FFmpeg paints over what a truncated JPEG lacks.
    """

    def __init__(self, uri: str, config: NodeConfig, clock: Clock) -> None:
        source = config.source
        self._clock, self._shown, self._fps = clock, hide_secrets(uri), source.fps
        self._order = OpenVideo(
            uri=str(path_of(uri)) if uri.startswith("file://") else uri,
            is_network=True,
            max_px=config.limits.max_image_px,
            open_timeout_s=source.open_timeout_s,
            read_timeout_s=source.read_timeout_s,
        )
        self._video = VideoProcess(self._order)
        self.clip: ClipReader | None = None

    def open(self) -> None:
        """Wait until it is open, or closed by another thread; raises `SourceError`."""
        try:
            self._video.open()
        except SourceError as error:
            raise SourceError(
                f"cannot open {self._shown}: {error}. Nobody answers, the login or path is wrong, "
                "or it is no video; try it with `ffprobe`"
            ) from error
        if self._video.opened.ends:
            name, video = self._shown, self._video
            self.clip = VideoClip(self._order, name=name, fps=self._fps, begun=video)

    def read(self) -> RawImage | None:
        """See `Capture`; raises `DecoderDiedError`."""
        try:
            shot = self._video.next()
        except DecoderDiedError:
            raise
        except SourceError:
            shot = None  # it broke off, or nothing came in time: the status knows which
        read_ns = self._clock.now_ns()
        return None if shot is None else RawImage(shot[1], read_ns, is_rgb=True)

    def close(self) -> None:
        """See `Capture`."""
        self._video.close()


class SnapshotCapture:
    """`snapshot+http://…`: an address that gives one picture at a time, asked at `source.fps` (2/s
    without it); see `Capture`. A picture that does not come is an outage.
    """

    def __init__(self, uri: str, config: NodeConfig, clock: Clock) -> None:
        self._clock, self._shown = clock, hide_secrets(uri)
        self._request, self._opener = _request_of(uri.removeprefix(SNAPSHOT))
        self._timeout_s = min(config.source.read_timeout_s, config.source.open_timeout_s)
        self._step_s = 1 / (config.source.fps or _SNAPSHOT_FPS)
        self._due_s = time.monotonic()
        self._is_closed = False

    def read(self) -> RawImage | None:
        """See `Capture`."""
        while not self._is_closed and (left_s := self._due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _POLL_S))
        if self._is_closed:
            return None
        self._due_s = max(self._due_s + self._step_s, time.monotonic())
        try:
            with self._opener.open(self._request, timeout=self._timeout_s) as answer:
                data: bytes = answer.read(MAX_PICTURE_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise SourceError(f"{self._shown} answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise SourceError(f"{self._shown} gives no picture: {type(reason).__name__}") from None
        if len(data) > MAX_PICTURE_BYTES:
            return RawImage(SourceError("more bytes than a picture may have"), self._clock.now_ns())
        return RawImage(data, self._clock.now_ns())

    def close(self) -> None:
        """See `Capture`."""
        self._is_closed = True


def _request_of(uri: str) -> tuple[urllib.request.Request, urllib.request.OpenerDirector]:
    """What asks for a picture; a login in the address is answered to basic and digest requests."""
    parts = urlsplit(uri)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = urllib.request.Request(plain, headers={"Cache-Control": "no-cache"})  # noqa: S310
    handlers: list[urllib.request.BaseHandler] = []
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        logins = urllib.request.HTTPPasswordMgrWithPriorAuth()
        logins.add_password(None, plain, user, password)
        handlers = [
            urllib.request.HTTPBasicAuthHandler(logins),
            urllib.request.HTTPDigestAuthHandler(logins),
        ]
    return request, urllib.request.build_opener(*handlers)


def open_capture(uri: str, config: NodeConfig, clock: Clock) -> Capture:
    """Open a camera of this machine, a network stream or a snapshot address; see `OpenCapture`."""
    scheme = uri.partition(":")[0].lower()
    if scheme in LOCAL:
        return open_device(uri, config, clock)
    make = SnapshotCapture if scheme.startswith(SNAPSHOT) else StreamCapture
    return make(uri, config, clock)
