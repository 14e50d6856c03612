"""Losses at equal steps and equal time lie on the curves, at a point that every curve reached."""

import math

import pytest

from streamtrain.records import StepsTimed
from streamtrain.science.cells import make_cell
from streamtrain.science.equal_budget import (
    equal_seconds,
    equal_steps,
    losses_at_seconds,
    losses_at_steps,
)
from streamtrain.science.run_log import Run
from tests.science.runs import add_curve, make_header

SIZES = {10: 400, 1000: 6}  # the steps of each in its budget
SECONDS_PER_ROW = {10: 2e-3, 1000: 1e-3}


def make_run(outcome="finished"):
    """Two steps halve the loss at either size."""
    run = Run(header=make_header(list(SIZES), lr=0.1, trials=2))
    for trial in range(2):
        for size, last in SIZES.items():
            steps = range(0, last + 1, 2)
            add_curve(
                run,
                batch_size=size,
                lr=0.1,
                trial=trial,
                steps=steps,
                losses=[2.0 ** (-step / 2) * (1 + trial) for step in steps],
                outcome=outcome if size == 1000 else "finished",
            )
    for size, seconds in SECONDS_PER_ROW.items():
        run.add(StepsTimed(batch_size=size, repeat=0, rows=1000, seconds=1000 * seconds))
    return run, [make_cell(run, size, 0.1, None) for size in SIZES]


def test_step_for_step_the_losses_are_equal_and_the_sizes_are_not():
    _run, cells = make_run()
    assert equal_steps(cells) == 6
    assert (
        losses_at_steps(cells[0], 6)
        == losses_at_steps(cells[1], 6)
        == [pytest.approx(0.125), pytest.approx(0.25)]
    )
    # log-loss is linear between 4 and 6
    assert losses_at_steps(cells[0], 5) == [pytest.approx(2**-2.5), pytest.approx(2**-1.5)]
    assert losses_at_steps(cells[1], 7) == [] == losses_at_steps(cells[1], None)


def test_at_equal_time_the_small_size_has_taken_more_steps():
    run, cells = make_run()
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
    _run, cells = make_run(outcome="diverged")
    assert equal_steps(cells) == 400
    assert losses_at_steps(cells[1], 2) == []
    assert math.isfinite(losses_at_steps(cells[0], 400)[0])
