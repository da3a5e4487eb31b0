"""Where a task begins, and whether its topics are still those it began with.

The facts of genesis (`origin`) stand in every journal frame: for each input its topic id, its partition count and the
start position. A topic that was deleted and made again, or got more partitions, would feed other records to the same
state: the job stops before it reads one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamcore.errors import TopicError
from streamcore.log.port import Admin, TopicInfo
from streamcore.state.frames import Origin
from streamcore.topology.nodes import Source
from streamcore.topology.plan import Stage
from streamcore.types import Offset, TaskId, TimestampMs, TopicPartition


class Start:
    def __init__(self, admin: Admin, inputs: Sequence[str], topics: Mapping[str, TopicInfo]) -> None:
        """`topics`: as they are when the worker begins, the `inputs` of its stages among them."""
        self._admin = admin
        self._inputs = inputs
        self._topics = topics

    def look_again(self, job: str) -> None:
        """Before each takeover: a topic may have changed under the running worker. Raises TopicError."""
        now = self._admin.topics(self._inputs)
        for topic in self._inputs:
            began = self._topics[topic]
            _refuse_change(f"job {job}", topic, (began.topic_id, began.partitions), now.get(topic))

    def offsets(self, stage: Stage, inputs: tuple[TopicPartition, ...]) -> dict[TopicPartition, Offset]:
        """A new task's: by the stream's start position; a shuffle is read from its beginning."""
        tps = list(inputs)
        at = stage.input.start if isinstance(stage.input, Source) else "earliest"
        if at == "earliest":
            return self._admin.first_offsets(tps)
        if at == "latest":
            return self._admin.stable_ends(tps)
        return self._admin.offsets_at(tps, TimestampMs(at))

    def origin(self, stage: Stage) -> Origin:
        at = stage.input.start if isinstance(stage.input, Source) else "earliest"
        info = self._topics[stage.topic]
        return {stage.topic: (info.topic_id, info.partitions, at)}

    def check(self, task: TaskId, stage: Stage, origin: Origin) -> None:
        """Raises TopicError when a topic is not the one the state was built from."""
        for topic, (topic_id, partitions, _) in origin.items():
            _refuse_change(f"task {task}", topic, (topic_id, partitions), self._topics.get(topic))


def _refuse_change(who: str, topic: str, began: tuple[str, int], now: TopicInfo | None) -> None:
    topic_id, partitions = began
    if now is None:
        raise TopicError(f"{who}: its input topic {topic} is gone", "create it again, or reset the job")
    if now.topic_id != topic_id:
        raise TopicError(
            f"{who}: the topic {topic} was deleted and created again since the job began (id {topic_id}, "
            f"now {now.topic_id}): its offsets mean other records",
            "`streamcore reset JOB` starts over on the new topic",
        )
    if now.partitions != partitions:
        raise TopicError(
            f"{who}: the topic {topic} had {partitions} partitions when the job began and has "
            f"{now.partitions} now: its keys are in other places",
            "`streamcore reset JOB` starts over; or copy the topic to one with the old partition count",
        )
