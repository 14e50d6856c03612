"""Trials that missed the target are watched for a while only: they count, but never as if they had
reached it.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.records import StepsTimed
from streamtrain.report.cell_figures import target_figures
from streamtrain.science.cells import make_cell
from streamtrain.science.intervals import Estimate, kaplan_meier_median
from streamtrain.science.run_log import Run
from tests.science.runs import add_curve, make_header

TIMES = st.lists(st.floats(0.1, 100), min_size=1, max_size=12)


@given(TIMES, st.lists(st.floats(101, 200), max_size=12))
def test_censored_beyond_the_last_arrival_it_is_the_lower_median_of_all(reached, away):
    everyone = sorted([*reached, *[np.inf] * len(away)])
    median = everyone[(len(everyone) - 1) // 2]
    assert kaplan_meier_median(reached, away) == (median if np.isfinite(median) else None)


@given(TIMES, TIMES, st.floats(1, 10))
def test_watching_longer_never_brings_the_median_forward(reached, away, longer):
    median = kaplan_meier_median(reached, away)
    later = kaplan_meier_median(reached, [time * longer for time in away])
    assert later is None or (median is not None and median <= later)


def test_who_is_lost_sight_of_at_an_arrival_was_still_at_risk():
    assert kaplan_meier_median([1.0, 3.0], [1.0]) == 3.0


def test_the_worked_example():
    """Times of remission of the 6-MP arm (Freireich et al. 1963): the median is 23.

    It is the textbooks' example of the Kaplan-Meier estimate.
    """
    reached = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    away = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    assert kaplan_meier_median(reached, away) == 23


def make_run(trials: list[list[float]], outcomes: list[str]) -> Run:
    run = Run(header=make_header([10], lr=0.1, trials=len(trials)))
    for trial, (losses, outcome) in enumerate(zip(trials, outcomes, strict=True)):
        steps = range(len(losses))
        add_curve(
            run,
            batch_size=10,
            lr=0.1,
            trial=trial,
            steps=steps,
            losses=losses,
            outcome=outcome,
        )
    for repeat in range(3):
        run.add(StepsTimed(batch_size=10, repeat=repeat, rows=10, seconds=2.0))
    return run


@pytest.mark.parametrize(
    ("missed", "steps"), [(1, 2.0), (2, None)], ids=["most arrived", "most did not"]
)
def test_a_censored_size_has_a_median_and_no_interval(missed, steps):
    arrived, lost = [4.0, 2.0, 1.0, 1.0], [4.0, 3.0, 3.0, 3.0]
    trials = [arrived] * (3 - missed) + [lost] * missed
    run = make_run(trials, ["finished"] * 3)
    cell = make_cell(run, 10, 0.1, 1.0)
    figures = target_figures(run, cell)
    assert cell.status == "not_reached"
    assert cell.censored_steps == dict.fromkeys(range(3 - missed, 3), 3)
    assert figures["steps_to_target"] == Estimate(value=steps, n=3 - missed)
    assert figures["rows_to_target"].value == (None if steps is None else 20.0)
    assert figures["seconds_to_target"].value == (None if steps is None else pytest.approx(4.0))


def test_a_diverged_trial_can_never_arrive():
    run = make_run([[4.0, 2.0, 1.0, 1.0], [4.0, 9.0]], ["finished", "diverged"])
    cell = make_cell(run, 10, 0.1, 1.0)
    assert cell.censored_rows == {1: np.inf}
    assert target_figures(run, cell)["rows_to_target"].value == 20.0
