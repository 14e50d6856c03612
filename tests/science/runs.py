"""Runs made of records whose figures are known."""

from collections.abc import Sequence
from typing import Any

from streamtrain.records import DataInfo, Evaluation, Outcome, ReplicaEnded, RunStarted
from streamtrain.science.run_log import Run


def make_header(sizes: Sequence[int], *, lr: float, trials: int, **changes: Any) -> RunStarted:
    """The first record of a sweep with one learning rate per size."""
    values = {"lrs": ((lr,),) * len(sizes), "data": DataInfo(holdout_source="rows"), **changes}
    return RunStarted(batch_sizes=tuple(sizes), trials=trials, **values)


def add_curve(
    run: Run,
    *,
    batch_size: int,
    lr: float,
    trial: int,
    steps: Sequence[int],
    losses: Sequence[float],
    rows: Sequence[int] | None = None,
    outcome: Outcome = "finished",
) -> None:
    """Add the evaluations of one replica and its end; `rows` are steps times size when None."""
    rows = [step * batch_size for step in steps] if rows is None else rows
    for step, row, loss in zip(steps, rows, losses, strict=True):
        run.add(
            Evaluation(
                trial=trial,
                batch_size=batch_size,
                lr=lr,
                rows=row,
                steps=step,
                holdout_loss=loss,
                holdout_rmse=loss,
                train_loss=loss,
            )
        )
    run.add(ReplicaEnded(trial=trial, batch_size=batch_size, lr=lr, outcome=outcome))
