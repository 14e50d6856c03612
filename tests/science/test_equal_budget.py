"""Losses at equal steps and equal time lie on the curves, at a point that every curve reached."""

import math

import pytest

from streamtrain.records import parse_record
from streamtrain.science.cells import make_cell
from streamtrain.science.equal_budget import (
    equal_seconds,
    equal_steps,
    losses_at_seconds,
    losses_at_steps,
)
from streamtrain.science.run_log import Run

SIZES = {10: 400, 1000: 6}  # steps of each in its budget
SECONDS_A_ROW = {10: 2e-3, 1000: 1e-3}


def made(outcome="finished"):
    """Both sizes halve their loss in two steps, whatever their size."""
    run = Run(
        header=parse_record(
            {
                "event": "run",
                **{
                    "event": "run",
                    "batch_sizes": list(SIZES),
                    "lrs": [[0.1]] * 2,
                    "trials": 2,
                    "data": {"holdout_source": "rows"},
                },
            }
        )
    )
    for trial in range(2):
        for size, steps in SIZES.items():
            for step in range(0, steps + 1, 2):
                loss = 2.0 ** (-step / 2) * (1 + trial)
                run.add(
                    {
                        "event": "evaluation",
                        "trial": trial,
                        "batch_size": size,
                        "lr": 0.1,
                        "rows": step * size,
                        "steps": step,
                        "holdout_loss": loss,
                        "holdout_rmse": loss,
                        "train_loss": loss,
                    }
                )
            run.add(
                {
                    "event": "outcome",
                    "trial": trial,
                    "batch_size": size,
                    "lr": 0.1,
                    "outcome": outcome if size == 1000 else "finished",
                }
            )
    for size, seconds in SECONDS_A_ROW.items():
        run.add(
            {
                "event": "timing",
                "batch_size": size,
                "repeat": 0,
                "rows": 1000,
                "seconds": 1000 * seconds,
            }
        )
    return run, [make_cell(run, size, 0.1, None) for size in SIZES]


def test_step_for_step_the_losses_are_equal_and_the_sizes_are_not():
    _run, cells = made()
    assert equal_steps(cells) == 6
    assert (
        losses_at_steps(cells[0], 6)
        == losses_at_steps(cells[1], 6)
        == [pytest.approx(0.125), pytest.approx(0.25)]
    )
    # log-loss is straight between 4 and 6
    assert losses_at_steps(cells[0], 5) == [pytest.approx(2**-2.5), pytest.approx(2**-1.5)]
    assert losses_at_steps(cells[1], 7) == [] == losses_at_steps(cells[1], None)


def test_at_equal_time_the_small_size_has_taken_more_steps():
    run, cells = made()
    seconds = equal_seconds(run, cells)
    assert seconds == pytest.approx(min(400 * 10 * 2e-3, 6 * 1000 * 1e-3))
    small, large = (losses_at_seconds(run, cell, seconds) for cell in cells)
    assert large == [pytest.approx(0.125), pytest.approx(0.25)]
    assert small == [
        pytest.approx(2.0 ** -(seconds / 2e-3 / 10 / 2)),
        pytest.approx(2 * 2.0 ** -(seconds / 2e-3 / 10 / 2)),
    ]
    run.step_seconds.clear()
    assert equal_seconds(run, cells) is None
    assert losses_at_seconds(run, cells[0], seconds) == []


def test_one_that_diverged_sets_no_budget_and_has_no_loss():
    _run, cells = made(outcome="diverged")
    assert equal_steps(cells) == 400
    assert losses_at_steps(cells[1], 2) == []
    assert math.isfinite(losses_at_steps(cells[0], 400)[0])
