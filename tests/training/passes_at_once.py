"""The check that passes at once on the fused engine of a GPU have the records of passes in turn."""

from dataclasses import replace
from threading import Barrier
from typing import Any

import data_gen
from streamtrain.config import make_config
from streamtrain.records import PassEnded, ReplicaEnded
from streamtrain.run.passes import run_pass
from streamtrain.run.passes_ahead import PassesAhead, make_learners
from streamtrain.run.prepare import prepare
from streamtrain.science.tuning import PassPlan
from streamtrain.training.learner import Learner


def check_passes_at_once(
    folder: Any, monkeypatch: Any, device: str, *, passes: int, rows: int, sizes: tuple[int, ...]
) -> None:
    """Train fresh trials in turn and at once, and compare their records bit for bit.

    Each of those at once waits for the others before its first row.
    """
    data_gen.generate(folder / "data", kind="linear", rows=rows)
    values = {
        "data": {"path": str(folder / "data"), "holdout": rows // 5},
        "train": {"device": device, "engine": "fused"},
        "model": {"hidden": [4]},
        "fetch": {"memory": "256MiB", "readers": passes},
    }
    prepared = replace(
        prepare(make_config(values), learners=len(sizes), rates=1), engine="fused-cuda"
    )
    lrs = dict.fromkeys(sizes, (0.01,))
    plans = [PassPlan(kind="fresh", trial=trial, lrs=lrs) for trial in range(passes)]
    in_turn: list[Any] = []
    for plan in plans:
        run_pass(prepared, make_learners(prepared, plan), plan.trial, in_turn.append, kind="fresh")

    together, consume = Barrier(passes, timeout=60), Learner.consume

    def meet(self, *arguments, **options):
        if self.batch_size == sizes[0] and not self.rows:
            together.wait()
        yield from consume(self, *arguments, **options)

    monkeypatch.setattr(Learner, "consume", meet)
    at_once: list[Any] = []
    with PassesAhead() as ahead:
        learners = make_learners(prepared, plans[0])
        assert ahead.start(prepared, plans[1:]) == passes - 1
        run_pass(prepared, learners, 0, at_once.append, kind="fresh")
        for plan in plans[1:]:
            ended = ahead.take(plan)
            assert ended is not None
            at_once += ended.records
    assert [_timeless(record) for record in at_once] == [_timeless(record) for record in in_turn]
    outcomes = [record.outcome for record in at_once if isinstance(record, ReplicaEnded)]
    assert outcomes == ["finished"] * passes * len(sizes)
    assert sum(isinstance(record, PassEnded) for record in at_once) == passes


def _timeless(record) -> dict:
    """Return the fields of a record without times."""
    return {
        name: value
        for name, value in record.to_json().items()
        if not name.endswith("seconds") and name != "stats"
    }
