"""Reads given partitions from given offsets, in no group."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from streamcore.errors import LogUnavailable, MembershipChanged
from streamcore.log.kafka import runs
from streamcore.log.kafka.errors import REMEDY, Events, refused_setting
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Run
from streamcore.types import Offset, TopicPartition

logger = logging.getLogger(__name__)


class KafkaReader:
    def __init__(
        self, settings: ClientSettings, starts: Mapping[TopicPartition, Offset], headers: bool, committed: bool
    ) -> None:
        self._headers = headers
        self._events = Events(settings, logger, "reader")
        conf = with_events(settings.reader(committed), logger, self._events.on_error)
        try:
            self._client = ck.Consumer(conf)
        except KafkaException as error:
            raise refused_setting(error, settings) from error
        self._next = dict(starts)
        self._one_topic = len({tp.topic for tp in starts}) == 1
        self._ended: set[TopicPartition] = set()
        self._closed = False
        self._client.assign([ck.TopicPartition(tp.topic, tp.partition, offset) for tp, offset in starts.items()])

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        try:
            messages = self._client.consume(max_records, 0)
            if not messages and timeout_s > 0:
                messages = self._client.consume(1, timeout_s)
                if messages and max_records > 1:
                    messages += self._client.consume(max_records - 1, 0)
        except KafkaException as error:
            raise self._events.error(error, "reading") from error
        records, events = runs.sift(messages)
        found = runs.cut(records, self._headers, self._one_topic) if records else []
        for run in found:
            self._next[run.tp] = Offset(run.offsets[-1] + 1)
            self._ended.discard(run.tp)
        for event in events:
            self._take(event)
        return found

    def _take(self, event: ck.Message) -> None:
        error = event.error()
        tp = runs.place(event)
        if error is None:
            return
        if runs.is_end(event):
            if tp is not None and runs.offset_of(event) >= self._next[tp]:
                self._next[tp] = runs.offset_of(event)
                self._ended.add(tp)
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            logger.debug("the reader needs no group: %s", error.str())
        elif not error.fatal() and REMEDY.get(error.code()) in (LogUnavailable, MembershipChanged):
            logger.warning("reading %s: %s", tp or "", error.str())
        else:
            where = "reading" if tp is None else f"reading {tp} at {self._next[tp]}"
            raise self._events.error(error, where)

    def ended(self) -> frozenset[TopicPartition]:
        return frozenset(self._ended)

    def position(self, tp: TopicPartition) -> Offset:
        return self._next[tp]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()
