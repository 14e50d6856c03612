"""Training one learner by local SGD: the shares of a round are leased, trained and averaged.

A round counts once all its shares are done. So the death of a worker costs the share it was
training, an interrupted driver continues from the last round, and the receipt of the committed
rounds counts each row once per epoch.
"""

import time
from dataclasses import replace

import numpy as np

from streamtrain.cluster.cluster_pass import Arrays, SharedLearnerPass
from streamtrain.cluster.local_sgd.round_worker import (
    KEPT_BY_SHARE,
    ShareResult,
    ShareTask,
    State,
    average,
    averaged_names,
    joint_counters,
    joint_state,
    train_share,
)
from streamtrain.cluster.local_sgd.rounds import Rounds, Share, run_round, windows_per_round
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker import Work
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.records import Emit, PassEnded, SyncChosen
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.checkpointing import Checkpointing, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: Rounds of one window per share, whose speed sets the length of the others.
MEASURED_ROUNDS = 2


class RoundsPass(SharedLearnerPass):
    """A pass in rounds, on any backend whose workers do `worker.call_work`.

    `windows_per_share`: the length of a round; None: chosen after MEASURED_ROUNDS rounds, and
    written into the record.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        *,
        shares: int,
        windows_per_share: int | None,
        kind: str = "tuning",
        saving: Checkpointing | None = None,
        chosen: SyncChosen | None = None,
        resume_state: PassState | None = None,
    ):
        super().__init__(prepared, learner, emit, kind=kind, saving=saving, chosen=chosen)
        self._fixed_length = windows_per_share
        self._speeds: list[list[float]] = []  # per measured round: rows per second of its shares
        self._rounds = Rounds(
            lambda epoch: prepared.plan(learner.trial, epoch),
            shares=shares,
            windows_per_share=windows_per_share or 1,
            last_row=prepared.last_row,
            last_epoch=prepared.last_epoch,
        )
        self._share_states: list[State] = []
        if resume_state is not None:
            self.load_state(resume_state)

    def _train_commits(self, pool: WorkerPool, leases: Leases) -> None:
        learner = self.learner
        if not learner.rows:
            self.emit_all(
                learner.count_remote_rows(0, np.zeros(len(learner.engine.learning_rates)))
            )
        while not self._rounds.done and not learner.done:
            self._choose_length()
            started, failures = time.perf_counter(), leases.failures
            shares = self._rounds.deal()
            self._commit(run_round(pool, leases, shares, self._payload))
            self.finish_commit(
                started=started,
                workers=min(len(pool), len(shares)),
                failed_tasks=leases.failures - failures,
                windows=sum(len(share.windows) for share in shares),
            )

    def _payload(self, share: Share) -> tuple[Work, ShareTask]:
        engine = self.learner.engine
        state = None
        if self._share_states:
            joint = engine.state()
            state = {name: joint[name] for name in averaged_names(joint)} | self._share_states[
                share.number
            ]
        return train_share, ShareTask(
            share=share,
            batch_size=engine.batch_size,
            lrs=tuple(engine.learning_rates),
            trial=self.learner.trial,
            shares=self._rounds.shares,
            state=state,
        )

    def _commit(self, results: list[ShareResult]) -> None:
        """Average the shares of a round, count their rows, and evaluate the learner if due."""
        engine = self.learner.engine
        states = [result.state for result in results]
        averaged = average(states, [result.weight for result in results])
        self._share_states = [{name: state[name] for name in KEPT_BY_SHARE} for state in states]
        engine.load_state(joint_state(engine, averaged, joint_counters(states)))
        for result in results:
            self.delivered.add(result.delivered)
        if self._rounds.number < MEASURED_ROUNDS:
            speeds = [
                result.rows / result.seconds for result in results if result.rows and result.seconds
            ]
            self._speeds.append(speeds)
        rows = sum(result.rows for result in results)
        losses_R = np.zeros(len(engine.learning_rates))
        for result in results:
            losses_R += result.losses
        self._rounds.commit(rows)
        self.emit_all(self.learner.count_remote_rows(rows, losses_R))

    def _choose_length(self) -> None:
        """After the measured rounds, set the windows that a median worker trains in a round."""
        if self._fixed_length is None and self._rounds.number >= MEASURED_ROUNDS and self._speeds:
            rows_per_second = float(np.median(self._speeds[-1] or [0.0]))
            self._fixed_length = windows_per_round(
                rows_per_second, self.prepared.source.window_rows
            )
            self._rounds.windows_per_share = self._fixed_length

    def _with_own_fields(self, record: PassEnded) -> PassEnded:
        return replace(
            record,
            rounds=self._rounds.number,
            shares=self._rounds.shares,
            windows_a_share=self._rounds.windows_per_share,
            outer_optimizer="average",
        )

    def _own_state(self) -> PassState:
        rounds = self._rounds
        document = {
            "fixed": self._fixed_length,
            "speeds": self._speeds,
            "windows_a_share": rounds.windows_per_share,
            "rounds": {
                "number": rounds.number,
                "epoch": rounds.epoch,
                "window": rounds.window,
                "rows": rounds.rows,
            },
        }
        arrays: Arrays = {}
        for number, state in enumerate(self._share_states):
            arrays |= nest(f"share/{number}", state)
        return document, arrays

    def _load_own_state(self, document: Json, arrays: Arrays) -> None:
        self._rounds.resume(**document["rounds"])
        self._rounds.windows_per_share = document["windows_a_share"]
        self._fixed_length = document["fixed"]
        self._speeds = document["speeds"]
        share_states = [unnest(f"share/{number}", arrays) for number in range(self._rounds.shares)]
        self._share_states = [state for state in share_states if state]
