"""Trials that missed the target are watched for a while and then lost sight of: they count, and
never as if they had arrived.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.records import parse_record
from streamtrain.report.cell_figures import target_figures
from streamtrain.science.cells import make_cell
from streamtrain.science.intervals import kaplan_meier_median
from streamtrain.science.run_log import Run

TIMES = st.lists(st.floats(0.1, 100), min_size=1, max_size=12)


@given(TIMES, st.lists(st.floats(101, 200), max_size=12))
def test_censored_beyond_the_last_arrival_it_is_the_lower_median_of_all(reached, away):
    everyone = sorted([*reached, *[np.inf] * len(away)])
    median = everyone[(len(everyone) - 1) // 2]
    assert kaplan_meier_median(reached, away) == (median if np.isfinite(median) else None)


@given(TIMES, TIMES, st.floats(1, 10))
def test_watching_longer_never_brings_the_median_forward(reached, away, longer):
    known, later = (
        kaplan_meier_median(reached, away),
        kaplan_meier_median(reached, [time * longer for time in away]),
    )
    assert later is None or (known is not None and known <= later)


def test_who_is_lost_sight_of_at_an_arrival_was_still_at_risk():
    assert kaplan_meier_median([1.0, 3.0], [1.0]) == 3.0


def test_the_worked_example():
    """Times of remission of the 6-MP arm (Freireich et al. 1963.

    Kaplan-Meier estimate in every textbook): the median is 23.
    """
    reached = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    away = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    assert kaplan_meier_median(reached, away) == 23


def _run(trials: list[list[float]], outcomes: list[str]) -> Run:
    run = Run(
        header=parse_record(
            {
                "event": "run",
                **{
                    "event": "run",
                    "batch_sizes": [10],
                    "lrs": [[0.1]],
                    "trials": len(trials),
                    "data": {"holdout_source": "rows"},
                },
            }
        )
    )
    for trial, (losses, outcome) in enumerate(zip(trials, outcomes, strict=True)):
        for step, loss in enumerate(losses):
            run.add(
                {
                    "event": "evaluation",
                    "trial": trial,
                    "batch_size": 10,
                    "lr": 0.1,
                    "rows": 10 * step,
                    "steps": step,
                    "holdout_loss": loss,
                    "holdout_rmse": loss,
                    "train_loss": loss,
                }
            )
        run.add(
            {"event": "outcome", "trial": trial, "batch_size": 10, "lr": 0.1, "outcome": outcome}
        )
    for repeat in range(3):
        run.add({"event": "timing", "batch_size": 10, "repeat": repeat, "rows": 10, "seconds": 2.0})
    return run


@pytest.mark.parametrize(
    ("missed", "steps"), [(1, 2.0), (2, None)], ids=["most arrived", "most did not"]
)
def test_a_censored_size_has_a_median_and_no_interval(missed, steps):
    arrived, lost = [4.0, 2.0, 1.0, 1.0], [4.0, 3.0, 3.0, 3.0]
    trials = [arrived] * (3 - missed) + [lost] * missed
    run = _run(trials, ["finished"] * 3)
    cell = make_cell(run, 10, 0.1, 1.0)
    figures = target_figures(run, cell)
    assert cell.status == "not_reached"
    assert cell.censored_steps == dict.fromkeys(range(3 - missed, 3), 3)
    assert figures["steps_to_target"] == {"value": steps, "n": 3 - missed, "lo": None, "hi": None}
    assert figures["rows_to_target"]["value"] == (None if steps is None else 20.0)
    assert figures["seconds_to_target"]["value"] == (None if steps is None else pytest.approx(4.0))


def test_a_diverged_trial_can_never_arrive():
    run = _run([[4.0, 2.0, 1.0, 1.0], [4.0, 9.0]], ["finished", "diverged"])
    cell = make_cell(run, 10, 0.1, 1.0)
    assert cell.censored_rows == {1: np.inf}
    assert target_figures(run, cell)["rows_to_target"]["value"] == 20.0
