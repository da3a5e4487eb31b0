"""A task's store, as a takeover finds it: local state where it can be the commit's, else a checkpoint, else nothing.

Local state is used when lineage and epoch can be the metadata's, and the journal still reaches back to it; whether it
is the journal's own line is found out by replaying (runtime.replay). Restores run beside the loop, all tasks' at once.

Processing thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from streamcore.checkpoint.background import Done, Failed, Work
from streamcore.checkpoint.manifest import Manifest
from streamcore.checkpoint.restore import Restored
from streamcore.clock import Clock, Entropy
from streamcore.errors import OffsetsLost, RetryError, StateDamaged, StreamcoreError
from streamcore.log.metadata import Metadata
from streamcore.log.port import Admin
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.replay import Replay, Verdict
from streamcore.runtime.statedir import StoreFactory
from streamcore.state.store import Store
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Offset, TaskId, TopicPartition

logger = logging.getLogger(__name__)

FORSAKE_S: Final = 60.0


class Restoring:
    """One task's restore, beside the loop, which asks `over` between polls."""

    def __init__(self, how: Checkpointing, task: TaskId, call: Callable[[], object]) -> None:
        self._work: Work[object] = how.work(f"restore-{task}")
        self._work.submit(call)
        self._task = task
        self.error: StreamcoreError | None = None
        self.value: object = None

    def over(self) -> bool:
        match self._work.poll():
            case Done(value):
                self.value = value
                return True
            case Failed(error):
                self.error = error
                return True
            case None:
                return False

    def forsake(self) -> None:
        """The takeover is dropped. What still runs must have ended before another restore of the task begins."""
        self._work.wait(FORSAKE_S)
        if self._work.poll() is None and self._work.busy:
            raise RetryError(f"task {self._task}: a restore that nobody needs any more does not end")


class Taking:
    """One task on its way to be ours: what each step of the takeover has found."""

    def __init__(self, task: TaskId, stage: Stage, inputs: tuple[TopicPartition, ...], journal: TopicPartition) -> None:
        self.id = task
        self.stage = stage
        self.inputs = inputs
        self.journal = journal
        self.metadata: Metadata | None = None
        self.offsets: dict[TopicPartition, Offset] = {}
        self.store: Store | None = None
        self.replay: Replay | None = None
        self.restoring: Restoring | None = None
        self.distrusted: frozenset[str] = frozenset()
        self.rejected = ""
        """Checkpoints that could not be restored, and why."""
        self.caught_up = False


class Opening:
    """Of one takeover."""

    def __init__(
        self,
        plan: Plan,
        admin: Admin,
        stores: StoreFactory,
        checkpointing: Checkpointing | None,
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
    ) -> None:
        self._plan = plan
        self._admin = admin
        self._stores = stores
        self._checkpointing = checkpointing
        self._clock = clock
        self._entropy = entropy
        self._metrics = metrics
        self._restored_bytes = 0
        self._restored_s = 0.0

    def open(self, taking: Taking, first: Offset) -> None:
        """`first`: where the task's journal begins."""
        store, why = self._opened(taking)
        mark = None if store is None or why else store.mark()
        if not why and mark is not None and mark.journal < first and self._checkpointing is not None:
            why = f"it stands at journal offset {mark.journal}, and the journal begins at {first}"
        if why:
            logger.warning("task %s: local state is not used and rebuilt: %s", taking.id, why)
            store = self._fresh(taking, store, why)
        assert store is not None
        taking.store = store
        if why or mark is None:
            self._begin_restore(taking, first)

    def start_over(self, taking: Taking, first: Offset) -> None:
        """The journal has shown that the local state is not of its line."""
        assert taking.store is not None
        why = Verdict.FOREIGN.value
        logger.warning("task %s: local state is not used and rebuilt from the journal: %s", taking.id, why)
        taking.store = self._fresh(taking, taking.store, why)
        self._begin_restore(taking, first)

    def restored(self, taking: Taking) -> bool:
        """True when nothing of the task is being restored any more, and its store is open."""
        restoring, how = taking.restoring, self._checkpointing
        if restoring is None or how is None:
            return True
        if not restoring.over():
            return False
        taking.restoring = None
        if restoring.error is not None:
            raise restoring.error
        found = restoring.value
        assert isinstance(found, Restored)
        taking.distrusted = frozenset[str]().union(*(each.objects for each in found.rejected))
        taking.rejected = "; ".join(f"{each.key}: {each.why}" for each in found.rejected)
        if found.manifest is not None:
            how.folders.adopt(taking.id)
            self._restored_bytes += found.manifest.size_bytes
            self._restored_s = max(self._restored_s, found.seconds)
            self._metrics.restored(found.seconds)
            logger.info("task %s: restored at epoch %d in %.1f s", taking.id, found.manifest.epoch, found.seconds)
        elif self._admin.first_offsets([taking.journal])[taking.journal] > 0:
            raise OffsetsLost(
                f"task {taking.id}: no checkpoint in {how.store.place} can be restored, and its journal begins after "
                f"the first epoch ({taking.rejected or 'there is none'})",
                "make the store whole again (a copy of its objects, the right --checkpoints), or start over with "
                "`streamcore reset JOB`",
            )
        taking.store = self._stores.open(taking.id, [node.name for node in taking.stage.stateful])
        return True

    def over(self) -> None:
        """Nothing is being restored any more."""
        if self._checkpointing is not None:
            self._checkpointing.restores.over()

    def measure(self) -> None:
        """They ran side by side: the rate is that of all of them."""
        if self._checkpointing is not None:
            self._checkpointing.rates.restored(self._restored_bytes, self._restored_s)
        self._restored_bytes, self._restored_s = 0, 0.0

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _opened(self, taking: Taking) -> tuple[Store | None, str]:
        """The local store, and why it cannot be used ("" when it can)."""
        store: Store | None = None
        try:
            store = self._stores.open(taking.id, [node.name for node in taking.stage.stateful])
            mark = store.mark()
        except StateDamaged as error:
            if store is not None:
                store.close()
            return None, error.what
        told = taking.metadata
        if mark is None:
            return store, ""
        if told is None:
            return store, f"it stands at epoch {mark.epoch} and nothing is committed"
        if mark.lineage != told.lineage:
            return store, f"it is of lineage {mark.lineage}, the commit of {told.lineage}"
        if mark.epoch > told.epoch:
            return store, f"it stands at epoch {mark.epoch}, after the commit's {told.epoch}"
        return store, ""

    def _fresh(self, taking: Taking, old: Store | None, why: str) -> Store:
        if old is not None:
            old.close()
        self._stores.set_aside(taking.id, why)
        self._metrics.state_rebuilt()
        return self._stores.open(taking.id, [node.name for node in taking.stage.stateful])

    def _begin_restore(self, taking: Taking, first: Offset) -> None:
        """Where a checkpoint is named, or the journal's beginning is gone."""
        how, told = self._checkpointing, taking.metadata
        if how is None or told is None or (told.checkpoint is None and not first):
            return
        assert taking.store is not None
        taking.store.close()
        taking.store = None
        self._stores.set_aside(taking.id, "")
        restorer, task, folder = how.restorer(self._clock, self._entropy), taking.id, how.folders.folder(taking.id)

        def accept(manifest: Manifest) -> str | None:
            if manifest.journal < first:
                return f"the journal begins at {first}, after its {manifest.journal}"
            how.restores.began(manifest.size_bytes)
            return None

        def restore() -> Restored:
            return restorer.restore(
                self._plan.job, task, told.lineage, told.epoch, folder, accept=accept, progress=how.restores.wrote
            )

        logger.info("task %s: restoring from %s", task, how.store.place)
        taking.restoring = Restoring(how, task, restore)
