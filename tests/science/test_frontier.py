"""The frontier: the fastest size to each of a ladder of losses, with known curves."""

import math

import numpy as np
import pytest

from streamtrain.records import Baseline, ReferenceLoss
from streamtrain.science import frontier as frontier_module
from streamtrain.science.cells import make_cell
from streamtrain.science.frontier import MOST_OF_CONSTANT, frontier
from streamtrain.science.run_log import Run
from tests.science.runs import add_curve, make_header

SIZES = (16, 64, 256)
ROWS = [256 * k for k in sorted({round(1.1**k) for k in range(100)})]


def make_run(trials=3, noise=0.0):
    """Losses floor + rows^-power: small sizes fall fast to a high floor, large ones slowly."""
    run = Run(header=make_header(SIZES, lr=0.1, trials=trials))
    rng = np.random.default_rng(0)
    for trial in range(trials):
        for size in SIZES:
            losses = loss_at(size, np.array(ROWS)) * np.exp(noise * rng.normal(size=len(ROWS)))
            steps = [rows // size for rows in ROWS]
            add_curve(
                run, batch_size=size, lr=0.1, trial=trial, steps=steps, losses=losses.tolist()
            )
    run.add(Baseline(best_constant_loss=ReferenceLoss(value=1.0, rmse=1.0, scored_on="holdout")))
    return run


def loss_at(size, rows):
    return 0.02 * 16 / size + (rows / (4 * size)) ** -0.7


def find(run, chosen, target):
    return frontier(run, [make_cell(run, size, 0.1, target) for size in SIZES], chosen, target)


def test_the_best_size_changes_along_the_ladder_as_the_curves_cross():
    target = 0.0125
    points = find(make_run(), 256, target)
    assert points[-1].loss == target
    losses = [point.loss for point in points]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < MOST_OF_CONSTANT
    # without timings, seconds are rows: the oracle inverts the curves
    for point in points:
        floors = {size: 0.02 * 16 / size for size in SIZES}
        oracle = {
            size: 4 * size * (point.loss - floor) ** (-1 / 0.7)
            for size, floor in floors.items()
            if point.loss > floor and loss_at(size, ROWS[-2]) <= point.loss
        }
        assert point.seconds.keys() == oracle.keys()
        for size, rows in oracle.items():
            assert point.seconds[size] == pytest.approx(rows, rel=0.05)
        assert point.batch_size == min(oracle, key=oracle.get)
    assert len({point.batch_size for point in points}) > 1


def test_a_size_that_stopped_early_is_compared_in_the_trials_that_it_ran():
    run = make_run(trials=4)
    # all sizes are twice as slow in trials 2 and 3, which 16 did not run
    slow = Run(header=run.header)
    slow.add(run.baseline)
    for (size, lr), curves in run.curves.items():
        for trial, curve in curves.items():
            if size == 16 and trial >= 2:
                continue
            factor = 2 if trial >= 2 else 1
            add_curve(
                slow,
                batch_size=size,
                lr=lr,
                trial=trial,
                steps=[factor * step for step in curve.steps],
                losses=curve.holdout_loss,
            )
    for point, other in zip(find(run, 256, 0.05), find(slow, 256, 0.05), strict=False):
        if point.loss == other.loss == 0.05:
            ratio = point.seconds[64] / point.seconds[16]
            assert other.seconds[64] / other.seconds[16] == pytest.approx(ratio)
            assert other.seconds[64] == pytest.approx(math.sqrt(2) * point.seconds[64])


def test_no_size_reaches_a_lower_loss_before_a_higher_one():
    """16 ran one of eight noisy trials: its raw seconds fall once."""
    target, run = 0.1, make_run(trials=8, noise=0.2)
    for trial in range(1, 8):
        del run.curves[16, 0.1][trial]
    points = find(run, 256, target)
    chosen, cells = 256, {size: make_cell(run, size, 0.1, target) for size in SIZES}
    raw = [
        frontier_module._seconds(run, list(cells.values()), cells[chosen], point.loss)
        for point in points
    ]
    falls = False
    for size in SIZES:
        before = [seconds[size] for seconds in raw if size in seconds]
        after = [point.seconds[size] for point in points if size in point.seconds]
        falls |= before != sorted(before)
        assert after == sorted(after)
        assert math.prod(after) == pytest.approx(math.prod(before))  # pooled by geometric means
        if before == sorted(before):
            assert after == before
    assert falls


def test_without_a_choice_or_a_target_there_is_no_frontier():
    run = make_run()
    assert find(run, None, 0.05) == find(run, 64, None) == find(run, 64, 1e-9) == []
