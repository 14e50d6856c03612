"""Training one learner over workers by local SGD: a round's shares are leased, done, averaged and committed, then comes the next.

A round counts when all its shares are done. So a worker's death costs the share that it was at, an interrupted driver goes on from
the last round, and the receipt of the committed rounds holds each row once an epoch.
"""

import json
import time
from collections import Counter

import numpy as np

from streamtrain.cluster.crew import Crew
from streamtrain.cluster.leases import Leases
from streamtrain.cluster.rounds import Rounds, Share, run_round, windows_a_round
from streamtrain.cluster.shares import AVERAGED, OWN, ShareDone, ShareWork, State, average, train_share, whole_state
from streamtrain.cluster.worker import Work
from streamtrain.errors import ResourceError
from streamtrain.learners.learner import Learner
from streamtrain.learners.saving import PassState, Saving
from streamtrain.passes import NO_LAST_ROW, Prepared
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.nulls import NullCounts, null_record
from streamtrain.types import Emit, Receipt, Record

#: Rounds of one window a share, from whose speed the length of the others is chosen.
MEASURED_ROUNDS = 2


class RoundsPass:
    """One pass of one learner in rounds, on any fabric whose workers do what `worker.call` does.

    `windows_a_share`: of a round; None: chosen after MEASURED_ROUNDS rounds, and written into the record.
    """

    def __init__(
        self, prepared: Prepared, learner: Learner, trial: int, emit: Emit, *, kind: str, saving: Saving | None, shares: int,
        windows_a_share: int | None, chosen: Record,
    ):  # fmt: skip
        self._prepared, self._learner, self._emit, self._saving = prepared, learner, emit, saving
        self._kind, self._trial, self._chosen = kind, trial, chosen
        self._fixed, self._speeds = windows_a_share, []
        last_row = prepared.last_row if prepared.last_row < NO_LAST_ROW else None
        self._rounds = Rounds(
            lambda epoch: prepared.plan(trial, epoch), shares=shares, windows_a_share=windows_a_share or 1, last_row=last_row,
            last_epoch=prepared.last_epoch,
        )  # fmt: skip
        self._own: list[State] = []
        self._receipt, self._stats = Receipt(), FetchStats()
        self._nulls: NullCounts = Counter()
        self._rows_read = 0
        self._started = self._first_round = time.perf_counter()
        self._name = json.dumps(["rounds", kind, trial, learner.engine.batch_size, list(learner.engine.learning_rates), shares])
        self.record: Record | None = None
        if saving is not None and (begun := saving.take(self._name)) is not None:
            self._load_state(begun)

    def run(self, crew: Crew, leases: Leases) -> Record:
        """Train to the pass's end; returns and emits its record. Raises ResourceError when the cluster is lost: the last round is saved."""
        if self._saving is None:
            return self._run(crew, leases)
        with self._saving.listening():
            try:
                return self._run(crew, leases)
            except ResourceError:
                self._saving.save(self._state())
                raise

    def _run(self, crew: Crew, leases: Leases) -> Record:
        lost_workers, failures = crew.lost_workers, leases.failures
        crew.interrupted = self._edge
        crew.wait_for(crew.min_workers)
        if not self._learner.rows:
            self._tell(self._learner.take_over(0, np.zeros(len(self._learner.engine.learning_rates))))
        while not self._rounds.done and not self._learner.done:
            self._choose_length()
            started, before, shares = time.perf_counter(), leases.failures, self._rounds.deal()
            done = run_round(crew, leases, shares, self._payload)
            self._commit(done)
            self._emit({
                "event": "round", "round": self._rounds.number, "rows": self._rounds.rows, "windows": sum(len(share.windows) for share in shares),
                "seconds": time.perf_counter() - started, "workers": len(crew), "failed_tasks": leases.failures - before,
            })  # fmt: skip
            self._edge()
        self._tell(self._learner.finish())
        self.record = {
            **self._pass_record(), "lost_workers": crew.lost_workers - lost_workers, "failed_tasks": leases.failures - failures,
        }  # fmt: skip
        self._emit(self.record)
        if self._saving is not None:
            self._saving.save(self._state())
        return self.record

    def _payload(self, share: Share) -> tuple[Work, ShareWork]:
        engine = self._learner.engine
        whole = engine.state()
        state = {**{name: whole[name] for name in AVERAGED}, **self._own[share.number]} if self._own else None
        return train_share, ShareWork(
            share=share, batch_size=engine.batch_size, lrs=tuple(engine.learning_rates), trial=self._trial, shares=self._rounds.shares, state=state
        )

    def _commit(self, done: list[ShareDone]) -> None:
        """All shares of the round are in: average them, count their rows, judge the result."""
        if not self._rounds.number:
            self._first_round = time.perf_counter()
        engine = self._learner.engine
        averaged = average([one.state for one in done], [one.weight for one in done])
        self._own = [{name: one.state[name] for name in OWN} for one in done]
        # Steps follow one another on the share that took most of them; rows are those of all.
        counters = max((one.state["counters"] for one in done), key=lambda c: int(c.reshape(-1, 3)[0, 1])).copy()
        counters[..., 2] = sum(int(one.state["counters"].reshape(-1, 3)[0, 2]) for one in done)
        engine.load_state(whole_state(engine, averaged, counters))
        rows = sum(one.rows for one in done)
        for one in done:
            self._receipt, self._nulls = self._receipt + one.receipt, self._nulls + one.nulls
            self._rows_read += one.receipt.count
            self._stats.add(**one.stats.to_json())
        if self._rounds.number < MEASURED_ROUNDS:
            self._speeds.append([one.rows / one.seconds for one in done if one.rows and one.seconds])
        self._rounds.commit(rows)
        self._tell(self._learner.take_over(rows, sum(one.losses for one in done)))

    def _choose_length(self) -> None:
        """After the measured rounds: as many windows as the slower half of the workers do in a round's time."""
        if self._fixed is None and self._rounds.number >= MEASURED_ROUNDS and self._speeds:
            self._fixed = windows_a_round(float(np.median(self._speeds[-1] or [0.0])), self._prepared.window_rows)
            self._rounds.windows_a_share = self._fixed

    def _tell(self, told) -> None:
        for record in told:
            self._emit(record)

    def _edge(self) -> None:
        if self._saving is not None:
            self._saving.edge(min(1.0, self._learner.rows / self._learner.last_row), self._state)

    def _pass_record(self) -> Record:
        """As `run_pass` has it, with what was chosen."""
        prepared, now = self._prepared, time.perf_counter()
        lrs = {str(self._learner.engine.batch_size): list(self._learner.engine.learning_rates)}
        return {
            "event": "pass", "kind": self._kind, "trial": self._trial, "rows_read": self._rows_read, "learners": 1, "lrs": lrs,
            "replicas": len(self._learner.engine.learning_rates), "seconds": now - self._started,
            "fill_seconds": self._first_round - self._started, "training_seconds": now - self._first_round,
            "receipt": self._receipt.to_json(), "stats": self._stats.to_json(),
            "imputed" if prepared.source.on_null == "impute" else "dropped": null_record(self._nulls, prepared.source.dataset),
            "quarantined": None, **self._chosen, "rounds": self._rounds.number, "shares": self._rounds.shares,
            "windows_a_share": self._rounds.windows_a_share, "outer_optimizer": "average",
        }  # fmt: skip

    def _state(self) -> PassState:
        about, arrays = self._learner.state()
        rounds = self._rounds
        document = {
            "name": self._name, "record": self.record, "learner": about, "fixed": self._fixed, "speeds": self._speeds,
            "rounds": {"number": rounds.number, "epoch": rounds.epoch, "window": rounds.window, "rows": rounds.rows},
            "windows_a_share": rounds.windows_a_share, "receipt": self._receipt.to_json(), "rows_read": self._rows_read,
            "nulls": [[*key, count] for key, count in sorted(self._nulls.items())], "stats": self._stats.to_json(),
            "seconds": time.perf_counter() - self._started, "fill_seconds": self._first_round - self._started,
        }  # fmt: skip
        own = {f"share/{number}/{name}": array for number, state in enumerate(self._own) for name, array in state.items()}
        return document, {**{f"learner/{name}": array for name, array in arrays.items()}, **own}

    def _load_state(self, begun: PassState) -> None:
        document, arrays = begun
        self._learner.load_state(document["learner"], _below(arrays, "learner/"))
        self._rounds.go_on(**document["rounds"])
        self._rounds.windows_a_share, self._fixed, self._speeds = document["windows_a_share"], document["fixed"], document["speeds"]
        self._own = [own for number in range(self._rounds.shares) if (own := _below(arrays, f"share/{number}/"))]
        self._receipt, self._rows_read = Receipt.from_json(document["receipt"]), document["rows_read"]
        self._nulls = Counter({(shard, column): count for shard, column, count in document["nulls"]})
        self._stats = FetchStats(**document["stats"])
        self._started = time.perf_counter() - document["seconds"]
        self._first_round = self._started + document["fill_seconds"]
        self.record = document["record"]


def _below(arrays: State, prefix: str) -> State:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


