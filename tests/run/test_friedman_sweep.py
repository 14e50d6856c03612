"""docs/science.md §9, test 11: steps to the target against the minibatch size, on known functions.

Steps fall as 1/B at small minibatches and not at all at large ones, and excess risk is exact. These
are steps of the last weights: an average removes noise that small minibatches would need steps for.

pytest -m slow tests/run/test_friedman_sweep.py
"""

import json
import math

import numpy as np
import pytest

from data_gen import generate
from streamtrain.config import make_config
from tests.run.whole_runs import run_sweep

#: The first and the last octave. The smallest sizes reach the target within a few thousand rows, so
#: the loss is evaluated from 64 rows on.
SIZES, ROWS, FIRST_ROW = [2, 4, 512, 1024], 450_000, 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "target", "reached"), [("friedman2", 0.016, 1.5), ("friedman3", 0.1, 4)]
)
def test_steps_against_minibatch_size(kind, target, reached, tmp_path):
    """`reached`: a bound on the smallest loss, in units of the best possible loss."""
    generate(tmp_path / "data", kind=kind, rows=600_000)
    config = make_config(
        {
            "data": {"path": str(tmp_path / "data"), "holdout": 65536},
            "model": {"hidden": [32, 32], "activation": "tanh"},
            "train": {
                "optimizer": "sgd",
                "momentum": 0,
                "average": "off",
                "max_rows": ROWS,
            },
            "eval": {"first_row": FIRST_ROW},
            "sweep": {
                "batch_sizes": SIZES,
                "lr_grid": [0.02, 0.04, 0.08, 0.16, 0.32, 0.64],
                "target_loss": [target],
                "confirm": False,
                "measure": [],
            },
        }
    )
    result = run_sweep(config, tmp_path / "run")
    cells = {cell["batch_size"]: cell for cell in result.summary["cells"]}
    steps = {size: cell["steps_to_target"]["value"] for size, cell in cells.items()}
    rates = {size: cell["lr"] for size, cell in cells.items()}
    assert all(steps.values()), (steps, rates)
    slopes = [math.log(steps[b] / steps[a]) / math.log(b / a) for a, b in (SIZES[:2], SIZES[2:])]
    print(kind, steps, rates, slopes)
    assert slopes[0] <= -0.8
    assert slopes[1] >= -0.2

    manifest = json.loads((tmp_path / "data" / "_manifest.json").read_text())["truth"]
    best = result.summary["best_possible_loss"]["value"]
    assert best == pytest.approx(manifest["noise_variance"] / manifest["target_variance"])
    losses = [cell["holdout_loss"]["value"] for cell in cells.values()]
    # The mean of the held-out noise alone is best ± best·√(2/65,536), so no loss may be more than 4
    # standard errors below it.
    assert min(losses) > best * (1 - 4 * np.sqrt(2 / 65536))
    assert min(losses) < reached * best
