"""Training one learner over workers by local SGD: a round's shares are leased, done, averaged and
committed, then comes the next.

A round counts when all its shares are done. So a worker's death costs the share that it was at, an
interrupted driver goes on from the last round, and the receipt of the committed rounds holds each
row once an epoch.
"""

import time

import numpy as np

from streamtrain.cluster.cluster_pass import ClusterPass, below
from streamtrain.cluster.local_sgd.round_worker import (
    AVERAGED,
    OWN,
    ShareDone,
    ShareWork,
    State,
    average,
    train_share,
    whole_state,
)
from streamtrain.cluster.local_sgd.rounds import Rounds, Share, run_round, windows_a_round
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker import Work
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.records import Emit
from streamtrain.run.prepare import NO_LAST_ROW, Prepared
from streamtrain.training.checkpointing import Checkpointer, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: Rounds of one window a share, from whose speed the length of the others is chosen.
MEASURED_ROUNDS = 2


class RoundsPass(ClusterPass):
    """In rounds, on any fabric whose workers do what `worker.call` does.

    `windows_a_share`: of a round; None: chosen after MEASURED_ROUNDS rounds, and written into the
    record.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        *,
        shares: int,
        windows_a_share: int | None,
        kind: str = "tuning",
        saving: Checkpointer | None = None,
        chosen: Json | None = None,
        begun: PassState | None = None,
    ):
        super().__init__(prepared, learner, emit, kind=kind, saving=saving, chosen=chosen)
        self._fixed, self._speeds = windows_a_share, []
        last_row = prepared.last_row if prepared.last_row < NO_LAST_ROW else None
        self._rounds = Rounds(
            lambda epoch: prepared.plan(learner.trial, epoch),
            shares=shares,
            windows_a_share=windows_a_share or 1,
            last_row=last_row,
            last_epoch=prepared.last_epoch,
        )
        self._own: list[State] = []
        if begun is not None:
            self.load_state(begun)

    def _train(self, crew: WorkerPool, leases: Leases) -> None:
        if not self.learner.rows:
            self.tell(self.learner.take_over(0, np.zeros(len(self.learner.engine.learning_rates))))
        while not self._rounds.done and not self.learner.done:
            self._choose_length()
            started, before, shares = time.perf_counter(), leases.failures, self._rounds.deal()
            self._take(run_round(crew, leases, shares, self._payload))
            self.committed(
                started=started,
                workers=min(len(crew), len(shares)),
                failed_tasks=leases.failures - before,
                windows=sum(len(share.windows) for share in shares),
            )

    def _payload(self, share: Share) -> tuple[Work, ShareWork]:
        engine = self.learner.engine
        whole = engine.state()
        state = (
            {**{name: whole[name] for name in AVERAGED}, **self._own[share.number]}
            if self._own
            else None
        )
        return train_share, ShareWork(
            share=share,
            batch_size=engine.batch_size,
            lrs=tuple(engine.learning_rates),
            trial=self.learner.trial,
            shares=self._rounds.shares,
            state=state,
        )

    def _take(self, done: list[ShareDone]) -> None:
        """All shares of the round are in: average them, count their rows, judge the result."""
        engine = self.learner.engine
        averaged = average([one.state for one in done], [one.weight for one in done])
        self._own = [{name: one.state[name] for name in OWN} for one in done]
        # Steps follow one another on the share that took most of them; rows are those of all.
        counters = max(
            (one.state["counters"] for one in done), key=lambda c: int(c.reshape(-1, 3)[0, 1])
        ).copy()
        counters[..., 2] = sum(int(one.state["counters"].reshape(-1, 3)[0, 2]) for one in done)
        engine.load_state(whole_state(engine, averaged, counters))
        rows = sum(one.rows for one in done)
        for one in done:
            self.count(one.receipt, one.nulls, one.stats)
        if self._rounds.number < MEASURED_ROUNDS:
            self._speeds.append(
                [one.rows / one.seconds for one in done if one.rows and one.seconds]
            )
        self._rounds.commit(rows)
        self.tell(self.learner.take_over(rows, sum(one.losses for one in done)))

    def _choose_length(self) -> None:
        """After the measured rounds: as many windows as the slower half of the workers do in a
        round's time.
        """
        if self._fixed is None and self._rounds.number >= MEASURED_ROUNDS and self._speeds:
            self._fixed = windows_a_round(
                float(np.median(self._speeds[-1] or [0.0])), self.prepared.window_rows
            )
            self._rounds.windows_a_share = self._fixed

    def _own_record(self) -> Json:
        return {
            "rounds": self._rounds.number,
            "shares": self._rounds.shares,
            "windows_a_share": self._rounds.windows_a_share,
            "outer_optimizer": "average",
        }

    def _own_state(self) -> PassState:
        rounds = self._rounds
        document = {
            "fixed": self._fixed,
            "speeds": self._speeds,
            "windows_a_share": rounds.windows_a_share,
            "rounds": {
                "number": rounds.number,
                "epoch": rounds.epoch,
                "window": rounds.window,
                "rows": rounds.rows,
            },
        }
        return document, {
            f"share/{number}/{name}": array
            for number, state in enumerate(self._own)
            for name, array in state.items()
        }

    def _load_own_state(self, document: Json, arrays: State) -> None:
        self._rounds.go_on(**document["rounds"])
        self._rounds.windows_a_share, self._fixed, self._speeds = (
            document["windows_a_share"],
            document["fixed"],
            document["speeds"],
        )
        self._own = [
            own
            for number in range(self._rounds.shares)
            if (own := below(arrays, f"share/{number}/"))
        ]
