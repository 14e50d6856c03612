"""SCIENCE.md §9, test 11: on a known function, steps fall as 1/B at small minibatches and not at all at large ones; excess risk is exact.

    pytest -m slow tests/test_friedman_sweep.py
"""

import json
import math

import numpy as np
import pytest

import streamtrain
from data_gen import generate

#: The first octave and the last.
SIZES, ROWS = [8, 16, 32768, 65536], 4_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target"), [("friedman2", 0.1), ("friedman3", 0.2)])
def test_steps_against_minibatch_size(kind, target, tmp_path):
    generate(tmp_path / "data", kind=kind, rows=2_000_000)
    result = streamtrain.sweep(
        tmp_path / "data", out=tmp_path / "run", batch_sizes=SIZES, lr_grid=[0.03, 0.06, 0.12, 0.25, 0.5], trials=3, target_loss=target, max_rows=ROWS,
        optimizer="sgd", hidden="32,32", activation="tanh", confirm=False, measure="none", holdout=65536,
    )  # fmt: skip
    cells = {cell["batch_size"]: cell for cell in result.summary["cells"]}
    steps = {size: cell["steps_to_target"]["value"] for size, cell in cells.items()}
    rates = {size: cell["lr"] for size, cell in cells.items()}
    assert all(steps.values()), (steps, rates)
    slopes = [math.log(steps[b] / steps[a]) / math.log(b / a) for a, b in (SIZES[:2], SIZES[2:])]
    print(kind, steps, rates, slopes)
    assert slopes[0] <= -0.8 and slopes[1] >= -0.2

    manifest = json.loads((tmp_path / "data" / "_manifest.json").read_text())["truth"]
    best = result.summary["best_possible_loss"]["value"]
    assert best == pytest.approx(manifest["noise_variance"] / manifest["target_variance"])
    losses = [cell["holdout_loss"]["value"] for cell in cells.values()]
    # The held-out noise alone has a mean of best ± best·√(2/65,536): no size may be below it by more than 4 of its errors.
    assert min(losses) > best * (1 - 4 * np.sqrt(2 / 65536)) and min(losses) < 1.5 * best
