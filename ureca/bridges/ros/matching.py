"""Notices ROS endpoints that are seen and do not match, and what helps.

Fast DDS 3 (ROS 2 Kilted and later) sends type objects that Cyclone DDS refuses where a type has a
sequence without bound: no image and no detection gets through, and neither side says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from ureca.extras import require

CHECK_S = 2.5
FASTDDS_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<!-- For the ROS side: FASTDDS_DEFAULT_PROFILES_FILE=/path/of/this/file
     It keeps Fast DDS 3 (ROS 2 Kilted) from sending type objects that Cyclone DDS refuses. -->
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <participant profile_name="ureca_participant" is_default_profile="true">
      <rtps>
        <propertiesPolicy>
          <properties>
            <property>
              <name>fastdds.type_propagation</name>
              <value>disabled</value>
            </property>
          </properties>
        </propertiesPolicy>
      </rtps>
    </participant>
  </profiles>
</dds>
"""
_EXTRA = "ros"
_MAX_ENDPOINTS = 4096
_log = logging.getLogger(__name__)

CountMatched = Callable[[], int]


class MatchWatch:
    """Compares the endpoints of others on our topics with those that match ours. For one thread.

    An endpoint that does not match for two checks is said, once per topic.
    """

    def __init__(self, participant: Any) -> None:
        builtin = require("cyclonedds.builtin", extra=_EXTRA)
        self._own = participant.guid
        self._publications = self._reader(builtin, participant, "BuiltinTopicDcpsPublication")
        self._subscriptions = self._reader(builtin, participant, "BuiltinTopicDcpsSubscription")
        self._readers: dict[str, CountMatched] = {}
        self._writers: dict[str, CountMatched] = {}
        self._suspects: set[str] = set()
        self._said: set[str] = set()

    @staticmethod
    def _reader(builtin: Any, participant: Any, topic: str) -> Any:
        return builtin.BuiltinDataReader(participant, getattr(builtin, topic))

    def add_reader(self, topic: str, matched: CountMatched) -> None:
        """Watch a topic that we read; `topic` is the name in DDS."""
        self._readers[topic] = matched

    def add_writer(self, topic: str, matched: CountMatched) -> None:
        """Watch a topic that we write."""
        self._writers[topic] = matched

    def check(self) -> None:
        """Look once."""
        unmatched = {
            *self._unmatched(self._publications, self._readers),
            *self._unmatched(self._subscriptions, self._writers),
        }
        for topic in sorted(unmatched & self._suspects - self._said):
            self._said.add(topic)
            _log.warning(
                "an endpoint of ROS on %s is seen, but it does not match: messages will not get "
                "through. ROS 2 Kilted and later (Fast DDS 3): use --rclpy, or start the ROS side "
                "with the profile of `ureca ros --fastdds-profile`. Otherwise its type or its "
                "reliability differs (`ros2 topic info -v`)",
                topic.removeprefix("rt"),
            )
        self._suspects = unmatched

    def _unmatched(self, others: Any, ours: dict[str, CountMatched]) -> Iterable[str]:
        listed = list(ours.items())
        if not listed:
            return []
        seen = Counter(
            sample.topic_name
            for sample in others.read(N=_MAX_ENDPOINTS)
            if getattr(sample, "topic_name", None) in ours
            and sample.participant_key != self._own
            and sample.sample_info.valid_data
        )
        return [topic for topic, matched in listed if seen[topic] > matched()]
