"""What `train --from` does: its rows are those of the smallest loss, and its loss is expected."""

import math

import numpy as np
import pytest

from streamtrain.science.cells import make_cell
from streamtrain.science.next_run import _change_by_rows, next_run
from streamtrain.science.run_log import Run
from tests.science.runs import add_curve, make_header

ROWS = [0, 64, 128, 256]


def make_run(curves, **changes):
    """A run of one size with the losses of each trial at `ROWS`; a rung may be longer."""
    run = Run(header=make_header((64,), lr=0.1, trials=len(curves), **changes))
    for trial, losses in enumerate(curves):
        rows = [*ROWS, 512][: len(losses)]
        steps = [row // 64 for row in rows]
        add_curve(run, batch_size=64, lr=0.1, trial=trial, steps=steps, losses=losses, rows=rows)
    return run


def find(run, trials):
    return next_run(run, make_cell(run, 64, 0.1, None, trials))


def test_training_ends_where_the_loss_was_smallest():
    overfit = make_run([[1.0, 0.5, 0.2, 0.4]] * 3)
    assert find(overfit, range(3)).rows == 128
    assert find(overfit, range(3)).loss.value == pytest.approx(0.2)
    assert find(make_run([[1.0, 0.5, 0.2, 0.1]] * 3), range(3)).rows == 256


def test_a_rung_longer_than_the_trials_counts_where_it_was_better():
    run = make_run([[1.0, 0.5, 0.3, 0.2, 0.1], [1.0, 0.5, 0.3, 0.2], [1.0, 0.5, 0.3, 0.22]])
    found = find(run, (1, 2))
    assert (found.rows, found.loss.n) == (512, 1)
    assert found.loss.value == pytest.approx(0.1)
    assert found.loss.lo < 0.1 < found.loss.hi


@pytest.mark.parametrize(
    ("third", "last", "fall", "flat"),
    [
        (0.3, 0.25, 0.4, False),
        (0.499, 0.498, 0.002, True),
        (0.3, 0.6, 0.0, True),
        # it was smallest before the end
        (0.3, 0.35, 0.3, True),
    ],
)
def test_the_gain_of_twice_the_rows_is_that_of_the_longest_training(third, last, fall, flat):
    """A loss counts as reached where two evaluations in a row hold it."""
    run = make_run([[1.0, 0.5, 0.5, third, last], [1.0, 0.1, 0.1, 0.1]])
    found = find(run, (1,))
    assert found.fall_per_doubling == pytest.approx(fall)
    assert found.is_flat == flat


def test_seeds_with_the_same_rows_are_compared_by_their_mean():
    losses = np.exp(np.random.default_rng(1).normal(size=(50, 3, 4)))
    for curves in losses:
        means = np.log(curves[:, 1:]).mean(axis=0)
        assert find(make_run(curves.tolist()), range(3)).rows == ROWS[1 + means.argmin()]


def test_a_lucky_seed_does_not_make_the_rows_best_that_it_alone_has():
    lucky = [0.3, 0.2, 0.05, 0.06, 0.07]  # its loss rises after 128 rows, as that of the others
    run = make_run([lucky, [1.0, 0.5, 0.2, 0.4], [1.0, 0.5, 0.2, 0.4]])
    found = find(run, (1, 2))
    assert (found.rows, found.loss.n) == (128, 3)
    assert found.loss.value == pytest.approx((0.05 * 0.2 * 0.2) ** (1 / 3))


def test_rows_that_one_seed_lacks_are_compared_between_its_evaluations():
    """The first ends at 200 rows, where the others have no evaluation, and the last goes on."""
    run = make_run([[1.0, 0.5, 0.4, 0.3, 0.2], [1.0, 0.5, 0.4, 0.3]])
    rows = [0, 64, 128, 200]
    add_curve(
        run,
        batch_size=64,
        lr=0.1,
        trial=2,
        steps=[0, 1, 2, 3],
        losses=[1, 0.5, 0.4, 0.1],
        rows=rows,
    )
    # the mean of the changes from 128 to 200 rows; from there the change of the first two
    share = math.log(200 / 128) / math.log(2)
    falls = [share * math.log(0.3 / 0.4)] * 2 + [math.log(0.1 / 0.4)]
    level = [0.0, math.log(0.4 / 0.5)]
    level.append(level[-1] + np.mean(falls))
    level.append(level[-1] + (1 - share) * math.log(0.3 / 0.4))
    level.append(level[-1] + math.log(0.2 / 0.3))
    found = _change_by_rows(list(run.curves[64, 0.1].values()), [64, 128, 200, 256, 512])
    assert found == pytest.approx(dict(zip([64, 128, 200, 256, 512], level, strict=True)))


def test_a_curve_of_a_schedule_is_not_cut_short():
    run = make_run([[1.0, 0.5, 0.2, 0.4]] * 3, config={"train": {"schedule": "cosine"}})
    assert find(run, range(3)).rows == 256


def test_one_seed_has_no_interval_and_nothing_finite_has_no_rows():
    found = find(make_run([[1.0, 0.5, 0.2, 0.4]]), range(1))
    assert (found.loss.lo, found.loss.hi, found.loss.n) == (None, None, 1)
    assert find(make_run([[1.0, math.nan, math.nan, math.nan]]), range(1)) is None
    assert find(make_run([[1.0]]), range(1)) is None


@pytest.mark.parametrize(
    ("sweeps", "most"), [(200, 20), pytest.param(4000, 250, marks=pytest.mark.slow)]
)
def test_the_interval_holds_the_loss_of_another_seed(sweeps, most):
    """`most` errors of `sweeps` are 1 % likely, or less, where each has 5 %."""
    rng = np.random.default_rng(5)

    def losses():
        seed = rng.normal(0, 0.02)
        return [1.0, *(value * math.exp(seed + rng.normal(0, 0.002)) for value in (0.5, 0.2, 0.1))]

    outside = 0
    for _ in range(sweeps):
        found = find(make_run([losses() for _ in range(4)]), range(1, 4))
        outside += not found.loss.lo <= losses()[-1] <= found.loss.hi
    assert found.rows == 256
    assert outside <= most
