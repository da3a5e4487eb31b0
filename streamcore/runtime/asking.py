"""Asking a running job for a barrier, and waiting for what becomes of it.

The request is written to the job's control topic by an idempotent producer; the coordinator begins a barrier for it as
soon as none is open. The answer is read from the same topic.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import TopicError
from streamcore.log.port import Admin, Log, Reader
from streamcore.runtime.control import Abandon, Complete, Request, Said, Start, decode, encode
from streamcore.runtime.cutting import control_partition
from streamcore.types import TopicPartition


@dataclass
class Asked:
    barrier: int = 0
    tasks: int = 0
    trouble: str = ""
    remedy: str = ""


def ask(
    log: Log, admin: Admin, job: str, savepoint: str | None, stops: bool, wait_s: float, clock: Clock, entropy: Entropy
) -> Asked:
    """Raises TopicError for a job without barriers; what goes wrong with the barrier is told in the result."""
    control = control_partition(job)
    if not admin.topics([control.topic]):
        raise TopicError(
            f"job {job} has no control topic {control.topic}: it has never run with checkpoints",
            "run it with --checkpoints (at-least-once jobs have no barriers)",
        )
    if not admin.members(job):
        return Asked(trouble="no worker of it runs", remedy="start it with `streamcore run`, then ask again")
    end = admin.stable_ends([control])[control]
    request = Request(entropy.token(), savepoint, stops)
    producer = log.producer(None)
    try:
        producer.init(limits.CALL_TIMEOUT_S)
        producer.send(control, encode(request))
        producer.flush(limits.CALL_TIMEOUT_S)
    finally:
        producer.close()
    reader = log.reader({control: end})
    try:
        return _answer(reader, control, request, clock, wait_s)
    finally:
        reader.close()


def _answer(reader: Reader, control: TopicPartition, request: Request, clock: Clock, wait_s: float) -> Asked:
    """The first barrier behind our request that serves it; another's savepoint may come first."""
    until_s = clock.monotonic_s() + wait_s
    asked = Asked()
    heard = False
    while clock.monotonic_s() < until_s:
        for run in reader.poll(limits.POLL_RECORDS, 0.2):
            for offset, value in zip(run.offsets, run.values, strict=True):
                said = decode(value or b"", f"{control} at offset {offset}")
                heard = heard or (isinstance(said, Request) and said.token == request.token)
                if heard and said is not None and _follow(asked, request, said):
                    return asked
    asked.trouble = f"nothing came of it within {wait_s:.0f} s"
    asked.remedy = f"`streamcore status` shows what barrier {asked.barrier or 'there is'} waits for; ask again"
    return asked


def _follow(asked: Asked, request: Request, said: Said) -> bool:
    """True when it is over."""
    match said:
        case Start() if not asked.barrier and said.serves(request):
            asked.barrier, asked.tasks = said.barrier, sum(said.stages.values())
        case Complete() if said.barrier == asked.barrier:
            return True
        case Abandon() if said.barrier == asked.barrier:
            asked.trouble, asked.remedy = f"its barrier was abandoned: {said.why}", "mend what it names, then ask again"
            return True
        case _:
            pass
    return False
