"""ROS 2 over plain DDS with Eclipse Cyclone: no ROS installation is needed.

ROS adds three conventions to DDS: the topic `/a/b` is `rt/a/b`, the type `pkg/msg/Name` is
`pkg::msg::dds_::Name_`, and samples are XCDR version 1.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ureca.bridges.ros.generic import from_foreign, hints, item_type, to_foreign, wire_type
from ureca.bridges.ros.matching import CHECK_S, MatchWatch
from ureca.bridges.ros.messages import Message
from ureca.bridges.ros.transport import DEPTH, Quality
from ureca.clock import MonotonicClock
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.log import RateLimitedLog

EXTRA = "ros"
_BLOCK_MS = 100
"""How long a reliable write may wait for a slow reader; then it is left out and counted."""
_POLL_MS = 200
_MAX_TAKE = 16
_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_TYPES: dict[type[Message], Any] = {}

LOCAL = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""
"""Cyclone's configuration for this host only, in the manner of ROS_LOCALHOST_ONLY=1."""

LOCAL_HINT = (
    "ROS nodes find it with ROS_LOCALHOST_ONLY=1 (Humble) or "
    "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST (later); for others give --network"
)


def topic_name(topic: str) -> str:
    """`/a/b` as DDS calls it."""
    return f"rt/{topic.lstrip('/')}"


def type_name(kind: type[Message]) -> str:
    """`vision_msgs/msg/Detection2D` as DDS calls it."""
    package, folder, name = kind.ros_name.split("/")
    return f"{package}::{folder}::dds_::{name}_"


def idl_type(kind: type[Message]) -> Any:  # a class of `IdlStruct`; Cyclone is optional
    """The Cyclone type of a message."""
    if kind not in _TYPES:
        idl = require("cyclonedds.idl", extra=EXTRA)
        found = {name: _idl(hint) for name, hint in hints(kind).items()}
        _TYPES[kind] = idl.make_idl_struct(f"{kind.__name__}_", type_name(kind), found)
    return _TYPES[kind]


def _idl(hint: Any) -> Any:
    types = require("cyclonedds.idl.types", extra=EXTRA)
    wire, item = wire_type(hint), item_type(hint)
    if item is not None:
        return types.sequence[idl_type(item)]
    if wire is None:
        return str if hint is str else idl_type(hint)
    name, _, size = wire.rstrip("]").partition("[")
    base = getattr(types, name)
    if size:
        return types.array[base, int(size)]
    return types.sequence[base] if wire.endswith("]") else base


def domain_of(text: str | None) -> int:
    """The ROS domain: the option, else ROS_DOMAIN_ID, else 0."""
    value = text if text is not None else os.environ.get("ROS_DOMAIN_ID") or "0"
    if not value.isdigit() or int(value) > 232:
        raise ConfigError(f"a ROS domain is 0 to 232, got {value!r}")
    return int(value)


class DdsTransport:
    """A participant of its own on one ROS domain. On this host only, unless `network` is true or
    CYCLONEDDS_URI says otherwise. Raises `MissingExtraError` without the `ros` extra, `ConfigError`
    when Cyclone refuses.
    """

    def __init__(self, domain: int = 0, *, network: bool = False) -> None:
        self._core = require("cyclonedds.core", extra=EXTRA)
        self._readers: list[tuple[Any, type[Message], Callable[[Any], None]]] = []
        self._stop = threading.Event()
        self._warn = RateLimitedLog(_log, MonotonicClock())
        self._domain = None
        try:
            if not network and not os.environ.get("CYCLONEDDS_URI"):
                self._domain = require("cyclonedds.domain", extra=EXTRA).Domain(domain, LOCAL)
                _log.info("DDS on this host only: %s", LOCAL_HINT)
            self._participant = require("cyclonedds.domain", extra=EXTRA).DomainParticipant(domain)
        except self._core.DDSException as error:
            raise ConfigError(
                f"no DDS on domain {domain}: {error}; is it in use in this process?"
            ) from error
        self._waitset = self._core.WaitSet(self._participant)
        self._matches = MatchWatch(self._participant)
        self._thread = threading.Thread(target=self._listen, name="ureca-dds")

    def publisher(self, topic: str, kind: type[_M], quality: Quality) -> Callable[[_M], bool]:
        """See `Transport`."""
        pub = require("cyclonedds.pub", extra=EXTRA)
        writer = pub.DataWriter(self._participant, self._topic(topic, kind), qos=self._qos(quality))
        self._matches.add_writer(topic_name(topic), lambda: len(writer.get_matched_subscriptions()))
        self._start()

        def publish(message: _M) -> bool:
            try:
                writer.write(to_foreign(message, idl_type))
            except self._core.DDSException as error:
                self._warn.warning(topic, f"a message on {topic} could not be sent: {error}")
                return False
            return True

        return publish

    def subscribe(
        self, topic: str, kind: type[_M], quality: Quality, heard: Callable[[_M], None]
    ) -> None:
        """See `Transport`."""
        sub = require("cyclonedds.sub", extra=EXTRA)
        reader = sub.DataReader(self._participant, self._topic(topic, kind), qos=self._qos(quality))
        condition = self._core.ReadCondition(
            reader,
            self._core.SampleState.Any | self._core.ViewState.Any | self._core.InstanceState.Any,
        )
        self._waitset.attach(condition)
        self._readers.append((reader, kind, heard))
        self._matches.add_reader(topic_name(topic), lambda: len(reader.get_matched_publications()))
        self._start()

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """See `Transport`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _topic(self, topic: str, kind: type[Message]) -> Any:
        module = require("cyclonedds.topic", extra=EXTRA)
        return module.Topic(self._participant, topic_name(topic), idl_type(kind))

    def _qos(self, quality: Quality) -> Any:
        qos, util = require("cyclonedds.qos", extra=EXTRA), require("cyclonedds.util", extra=EXTRA)
        policy = qos.Policy
        reliable = policy.Reliability.Reliable(util.duration(milliseconds=_BLOCK_MS))
        return qos.Qos(
            reliable if quality == "reliable" else policy.Reliability.BestEffort,
            policy.Durability.Volatile,
            policy.History.KeepLast(DEPTH[quality]),
            policy.DataRepresentation(use_cdrv0_representation=True),
        )

    def _listen(self) -> None:
        timeout = require("cyclonedds.util", extra=EXTRA).duration(milliseconds=_POLL_MS)
        next_check_s = time.monotonic() + CHECK_S
        while not self._stop.is_set():
            self._waitset.wait(timeout)
            if time.monotonic() >= next_check_s:
                next_check_s = time.monotonic() + CHECK_S
                self._matches.check()
            for reader, kind, heard in self._readers:
                for sample in reader.take(N=_MAX_TAKE):
                    self._hear(sample, kind, heard)

    def _hear(self, sample: Any, kind: type[Message], heard: Callable[[Any], None]) -> None:
        if not isinstance(sample, idl_type(kind)):
            return  # the writer has left
        try:
            heard(from_foreign(kind, sample))
        except Exception:  # noqa: BLE001  (one message must not end the thread)
            _log.exception("a %s could not be taken", kind.ros_name)
