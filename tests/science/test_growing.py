"""A size that grows: proposed where the curves say so, and judged with known truth."""

import math
from dataclasses import replace

import numpy as np
import pytest

from streamtrain.records import BatchStage, DeliveryTimed, GrowthTried, StepsTimed
from streamtrain.science.cells import make_cell
from streamtrain.science.frontier import FrontierPoint
from streamtrain.science.growing import candidates, faster_by, in_proportion, propose, seconds_of
from streamtrain.science.run_log import Run
from tests.science.runs import make_header

SIZES = (16, 64, 256)
#: Seconds per row of each size.
COST = {16: 4e-6, 64: 2e-6, 256: 1e-6}


@pytest.fixture
def run():
    run = Run(header=make_header(SIZES, lr=0.1, trials=1))
    for repeat in range(2):
        run.add(DeliveryTimed(repeat=repeat, rows=1000, seconds=1e-9, cores=2))
        for size, cost in COST.items():
            run.add(StepsTimed(batch_size=size, repeat=repeat, rows=1000, seconds=1000 * cost))
    return run


def points(*seconds):
    """Points of a frontier at falling losses, with the seconds of 16, 64 and 256 rows."""
    return [
        FrontierPoint(
            loss=1 / (k + 2),
            batch_size=min(SIZES),
            seconds={size: value for size, value in zip(SIZES, row, strict=True) if value},
        )
        for k, row in enumerate(seconds)
    ]


def test_each_stretch_of_the_loss_has_the_size_that_is_fastest_in_it(run):
    found = propose(run, points((0.004, 0.01, 0.1), (0.05, 0.03, 0.13), (0.2, 0.1, 0.15)))
    # 4 ms at 4 µs per row, then 20 ms at 2 µs per row
    assert found == (
        BatchStage(first_row=0, batch_size=16),
        BatchStage(first_row=1000, batch_size=64),
        BatchStage(first_row=11_000, batch_size=256),
    )


def test_a_size_never_shrinks_and_never_jumps(run):
    # 64 is fastest at first, 16 later: no case for a growing size
    assert propose(run, points((0.1, 0.01, 0.1), (0.11, 0.1, 0.2))) is None
    # the small increment of 256 after 16 is beyond a factor of four
    assert propose(run, points((0.01, 0.02, 0.3), (0.05, 0.08, 0.301))) is None
    assert propose(run, []) is None


def test_a_size_that_missed_a_loss_is_left_out(run):
    found = propose(run, points((0.01, 0.02, None), (None, 0.03, 0.05)))
    assert [stage.batch_size for stage in found] == [16, 64]


def test_sizes_grow_in_proportion_to_the_rows():
    assert in_proportion((16, 64, 256), 64, 16_000, 1 / 16) == (
        BatchStage(first_row=0, batch_size=16),
        BatchStage(first_row=1000, batch_size=64),
        BatchStage(first_row=4000, batch_size=256),
    )
    # from the smallest size on, and only before the rows to the target
    assert in_proportion((64, 256), 64, 8000, 1 / 8)[0] == BatchStage(first_row=0, batch_size=64)
    assert in_proportion((16, 64, 256), 64, 8000, 1 / 4)[-1].batch_size == 64
    # no jump of more than a factor of four, in either direction
    assert in_proportion((4, 64, 1024), 64, 8000, 1 / 8) is None


@pytest.mark.parametrize(("steps", "count"), [({}, 1), ({0: 500.0, 1: 500.0}, 3)])
def test_candidates_are_the_frontiers_and_those_in_proportion(run, steps, count):
    blank = make_cell(run, 64, 0.1, None, ())
    cells = [replace(blank, batch_size=size, status="reached") for size in SIZES]
    chosen = replace(cells[1], steps_to_target=steps)
    frontier = points((0.004, 0.01, 0.1), (0.05, 0.03, 0.13))
    found = candidates(run, frontier, chosen, cells)
    assert len(found) == count
    # the frontier's, and at 32,000 rows to the target those after an eighth and a sixteenth of them
    assert [stages[1].first_row for stages in found] == ([4000, 1000, 2000] if steps else [1000])
    # a size that failed takes no part, and a schedule that is proposed twice is tried once
    cells[2] = replace(cells[2], status="diverged")
    for stages in (alone := candidates(run, frontier, chosen, cells)):
        assert [stage.batch_size for stage in stages] == [16, 64]
    assert len(set(alone)) == len(alone)


def test_seconds_are_those_of_the_rows_of_each_stage():
    stages = (BatchStage(first_row=0, batch_size=16), BatchStage(first_row=100, batch_size=256))
    assert seconds_of(COST, stages, 50) == pytest.approx(50 * 4e-6)
    assert seconds_of(COST, stages, 300) == pytest.approx(100 * 4e-6 + 200 * 1e-6)


@pytest.mark.parametrize("truth", [math.log(0.7), 0.0])
def test_a_win_is_false_in_at_most_5_percent(run, truth):
    """Curves rows^-1 whose speed has a known ratio and noise; 400 comparisons of 5 trials.

    More than 32 false bounds of 400 are 0.5 % likely at 5 %.
    """
    rng = np.random.default_rng(0)
    rows = tuple(round(64 * 2 ** (k / 2)) for k in range(24))
    false = wins = 0
    for _ in range(400):
        run.growth.clear()
        for trial in range(5):
            shared = rng.normal(0, 0.5)
            run.add(
                GrowthTried(
                    trial=trial,
                    stages=(BatchStage(first_row=0, batch_size=64),),
                    lr=0.1,
                    batch_size=64,
                    rows=rows,
                    growing_loss=losses(rows, shared + truth + rng.normal(0, 0.15)),
                    constant_loss=losses(rows, shared + rng.normal(0, 0.15)),
                )
            )
        found = faster_by(run, 0.01)
        assert found.n == 5
        false += math.log1p(found.hi) < truth
        wins += found.hi < 0
    assert false <= 32
    assert wins <= 32 if truth == 0 else wins > 200


def losses(rows, log_factor):
    """A loss of 0.01 at 10,000 rows times a factor."""
    return tuple(min(1.0, 100 * math.exp(log_factor) / row) for row in rows)


def test_a_trial_that_missed_the_target_is_no_win(run):
    for trial, last in enumerate((0.01, 0.02)):
        run.add(
            GrowthTried(
                trial=trial,
                stages=(BatchStage(first_row=0, batch_size=64),),
                lr=0.1,
                batch_size=64,
                rows=(0, 64, 128, 256),
                growing_loss=(1.0, 0.5, last, last),
                constant_loss=(1.0, 0.5, 0.01, 0.01),
            )
        )
    assert faster_by(run, 0.015).value is None
    assert faster_by(run, 0.025).hi is not None
    assert faster_by(run, None).value is None
