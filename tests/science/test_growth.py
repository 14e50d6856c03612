"""B_crit along a run: what made the curves comes back, and a growing batch is proposed where it
grew more than 4 times.
"""

import math

import numpy as np
import pytest

from streamtrain.records import parse_record
from streamtrain.science.cells import make_cell
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Run
from streamtrain.science.steps_law import local_growth

SIZES = [8, 32, 128, 512, 2048]


def cells(local, *, trials=3, noise=0.02, stretch_steps=50.0):
    """Runs whose loss falls by the same factor in ΔS_min(1 + b_k/B) steps of stretch k."""
    ends = np.geomspace(0.8, 0.05, len(local) + 1)
    run = Run(
        header=parse_record(
            {
                "event": "run",
                **{
                    "event": "run",
                    "batch_sizes": SIZES,
                    "lrs": [[0.1]] * len(SIZES),
                    "trials": trials,
                    "data": {"holdout_source": "rows"},
                },
            }
        )
    )
    for trial in range(trials):
        for size in SIZES:
            factor = math.exp(noise * (trial - (trials - 1) / 2))
            taken = np.cumsum(
                [
                    0.0,
                    10.0,
                    *(stretch_steps * (1 + critical / size) * factor for critical in local),
                    20.0,
                ]
            )
            levels = np.log([1.0, *ends, 0.04])
            for step in np.unique(np.round(np.linspace(0, taken[-1], 4000)).astype(int)).tolist():
                loss = float(np.exp(np.interp(step, taken, levels)))
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
                    "outcome": "finished",
                }
            )
    return [make_cell(run, size, 0.1, 0.05) for size in SIZES]


def test_a_batch_that_should_grow_is_found_and_doubles():
    made = [20.0, 60.0, 200.0, 600.0]
    found = local_growth(cells(made), 0.05)
    assert found.local_critical == pytest.approx(made, rel=0.15)
    assert found.growth.value == pytest.approx(30, rel=0.2)
    assert found.growth.lo <= 30 * 1.1
    assert found.growth.n == 3
    assert found.doublings == 5
    bound = np.sqrt(made).mean() ** 2 / np.mean(made)  # stretches of equal ΔS_min
    assert found.gamma == pytest.approx(bound, abs=0.02)


def test_a_useful_batch_that_stands_still_saves_nothing():
    found = local_growth(cells([100.0] * 4, trials=1), 0.05)
    assert found.growth.value == pytest.approx(1, rel=0.1)
    assert found.doublings == 0
    assert found.gamma == pytest.approx(1, abs=0.01)
    assert found.growth.lo is None
    assert found.growth.kind == "1 run"


def test_what_cannot_be_told_is_not():
    made = cells([100.0] * 4, trials=1)
    assert local_growth(made[:2], 0.05) is None
    assert local_growth([], 0.05) is None
    assert local_growth(made, 0.79) is None  # no stretch between the start and such a target


@pytest.mark.parametrize(
    ("value", "lo", "doublings"),
    [(9.0, 1.5, 3), (9.0, 0.5, 0), (9.0, None, 3), (3.9, 3.0, 0)],
    ids=str,
)
def test_it_doubles_only_where_growth_is_large_and_shown(monkeypatch, value, lo, doublings):
    monkeypatch.setattr(
        "streamtrain.science.steps_law.log_estimate",
        lambda *_: Estimate(value=value, lo=lo, n=3),
    )
    assert local_growth(cells([100.0] * 4, trials=1), 0.05).doublings == doublings
